"""Memories go on without the conversation they were made in."""

import pytest
import torch
from view_example import TOKENIZER, colony, oscillators, transformer

from positronic.errors import GenerationError
from positronic.generation import Conversation, generate, memories_alone
from positronic.generation.requests.memories import memories_in, with_memories

MAKE = {"rings": oscillators, "colony": colony}


@pytest.fixture(scope="module", params=MAKE)
def model(request):
    return MAKE[request.param]()


def answered(model, prompt, **how):
    return list(generate(model, TOKENIZER, prompt, max_new_tokens=6, temperature=0, **how))[-1].result


def tensors(memories):
    return [x for memory in memories for x in vars(memory).values() if isinstance(x, torch.Tensor)]


def test_what_is_carried_is_what_was_learned_and_nothing_else(model):
    first = answered(model, "The lamp on the hill")
    alone = memories_alone(model, first.state)
    assert (alone.tokens, alone.state) == ((), None)
    kept = [memory.carried() for memory in memories_in(first.state.state)]
    assert len(kept) == len(list(memories_in(model.init_state(1)))) > 0
    assert all(torch.equal(a, b) for a, b in zip(tensors(alone.begun), tensors(kept), strict=True))
    state = with_memories(model.init_state(1), alone.begun)
    assert int(state.position) == 0


def test_the_next_request_hears_the_memories_and_not_the_words(model):
    alone = memories_alone(model, answered(model, "The lamp on the hill").state)
    after, fresh = answered(model, "Who", state=alone), answered(model, "Who")
    assert after.prompt_tokens == fresh.prompt_tokens
    heard = zip(tensors(memories_in(after.state.state)), tensors(memories_in(fresh.state.state)), strict=True)
    assert any(not torch.equal(a, b) for a, b in heard)
    empty = memories_alone(model, Conversation())
    assert answered(model, "Who", state=empty).tokens == fresh.tokens


def test_exact_requests_begin_with_them_too(model):
    alone = memories_alone(model, answered(model, "The lamp on the hill").state)
    plain, drafted = (answered(model, "Who", state=alone, exact=True, speculative=s) for s in (False, True))
    assert plain.tokens == drafted.tokens
    carried = tensors(memories_in(plain.state.state))
    fresh = tensors(memories_in(answered(model, "Who", exact=True).state.state))
    assert any(not torch.equal(a, b) for a, b in zip(carried, fresh, strict=True))


def test_what_cannot_begin_so_is_refused(model):
    alone = memories_alone(model, answered(model, "The lamp").state)
    with pytest.raises(GenerationError, match="cache"):
        answered(model, "Who", state=alone, cache=False)
    with pytest.raises(GenerationError, match="without its memories"):
        memories_alone(model, Conversation((1, 2)))
    with pytest.raises(GenerationError, match="no memories"):
        memories_alone(transformer(), Conversation())
