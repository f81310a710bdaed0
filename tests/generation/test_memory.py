"""What a request leaves behind: nothing by default, its conversation where kept, no test-time memory where frozen."""

from dataclasses import replace
from itertools import zip_longest

import pytest
import torch
from drafting import Oracle

from positronic.errors import GenerationError
from positronic.generation import Exact, NGram, generate
from positronic.state import Memory
from positronic.text import Message, byte_tokenizer
from positronic.tree import exchanged
from remembering import equal_bits, ledger_of, remembering

TOKENS = byte_tokenizer()
HOW = {"max_new_tokens": 12, "temperature": 0.8}


@pytest.fixture(scope="module")
def model():
    return remembering()


def ask(model, prompt, **how):
    return list(generate(model, TOKENS, prompt, **(HOW | how)))[-1].result


def wide(room: int) -> Exact:
    return Exact(5, torch.get_num_threads(), room)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("speculative", [False, NGram(shortest=1)])
def test_a_frozen_request_leaves_the_memories_of_its_state_as_they_were(model, exact, speculative):
    first = ask(model, "Remember this", exact=exact and wide(200)).state
    how = {"exact": exact and wide(200), "speculative": speculative}
    frozen = ask(model, " and go on and go on", freeze_memory=True, state=first, **how).state
    assert torch.equal(ledger_of(frozen), ledger_of(first))
    assert frozen.state.position > first.state.position, "the request was not read"
    written = ask(model, " and go on and go on", state=first, **how).state
    assert not torch.equal(ledger_of(written), ledger_of(first))


def test_a_frozen_request_that_stands_alone_leaves_memories_empty_and_still_reads_given_ones(model):
    alone = ask(model, "Remember this", freeze_memory=True).state
    assert not ledger_of(alone).any()
    first = ask(model, "Remember this").state
    empty = exchanged(
        first.state.layers, Memory, lambda memory: replace(memory, memory=torch.zeros_like(memory.memory))
    )
    emptied = replace(first, state=replace(first.state.select(torch.tensor([0])), layers=empty))
    said = [ask(model, " and", freeze_memory=True, seed=2, state=state).tokens for state in (first, emptied)]
    assert said[0] != said[1], "a frozen memory was not read"


def test_a_frozen_request_says_the_same_with_drafts_and_without_a_cache(model):
    plain = ask(model, "Remember this", freeze_memory=True, exact=wide(200))
    oracle = Oracle(plain.tokens, len("Remember this"))
    drafted = ask(model, "Remember this", freeze_memory=True, exact=wide(200), speculative=oracle)
    assert (drafted.tokens, drafted.draft.accepted > 0) == (plain.tokens, True)
    fast = ask(model, "Remember this", freeze_memory=True, temperature=0)
    uncached = ask(model, "Remember this", freeze_memory=True, temperature=0, cache=False)
    assert uncached.tokens == fast.tokens
    assert uncached.state.writes == fast.state.writes == ((0, False),)


def test_reading_a_conversation_again_freezes_what_was_frozen(model):
    """The exact width has no room for the third request, so all is read again: as it would be with room enough."""
    said = []
    for rooms in ((60, 60, 200), (200, 200, 200)):
        after = ask(model, "Remember", exact=wide(rooms[0])).state
        after = ask(model, " not this", exact=wide(rooms[1]), freeze_memory=True, state=after).state
        said.append(ask(model, " but this", exact=wide(rooms[2]), state=after))
    again, kept = said
    assert again.state.writes == kept.state.writes == ((0, True), (8 + 12 - 1, False), (8 + 12 + 9 + 12 - 1, True))
    assert torch.allclose(ledger_of(again.state), ledger_of(kept.state), atol=1e-5)
    unfrozen = ask(model, " but this", exact=wide(300), state=replace(again.state, writes=((0, True),)))
    assert not torch.allclose(ledger_of(unfrozen.state), ledger_of(kept.state), atol=1e-2)


def test_reading_all_anew_for_every_token_needs_one_way_of_reading(model):
    first = ask(model, "Remember this").state
    frozen = ask(model, " or not", freeze_memory=True, state=first).state
    for state, freeze in ((first, True), (frozen, True), (frozen, False)):
        with pytest.raises(GenerationError, match="leave the cache on"):
            ask(model, " go on", cache=False, freeze_memory=freeze, state=state)
    alone = ask(model, "Remember this", freeze_memory=True).state
    assert ask(model, " go on", cache=False, freeze_memory=True, state=alone).state.writes == ((0, False),)


def test_two_interleaved_requests_leave_each_others_bits_alone(model):
    prompts = "The first of two", [Message("user", "The second")]
    alone = [ask(model, prompt, seed=4).state for prompt in prompts]
    pieces = zip_longest(*(generate(model, TOKENS, prompt, seed=4, **HOW) for prompt in prompts))
    last = list(zip(*pieces, strict=True))
    together = [next(piece.result for piece in row if piece and piece.result).state for row in last]
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        assert equal_bits(one.state, other.state)


def test_a_request_after_fifty_others_is_the_same_request_first(model):
    first = ask(model, "Once more", seed=9)
    for seed in range(50):
        ask(model, "x" * (1 + seed), seed=seed, max_new_tokens=3)
    later = ask(model, "Once more", seed=9)
    assert later.tokens == first.tokens
    assert equal_bits(later.state.state, first.state.state)
    assert torch.equal(later.state.hidden, first.state.hidden)
