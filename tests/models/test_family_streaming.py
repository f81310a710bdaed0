"""A family says the same however it is read: cached, anew, in pieces, by drafts, beside other requests."""

import random
from itertools import pairwise, zip_longest

import pytest
import torch
from drafting import PROMPT, Blind, Oracle, ids, run
from family_example import BYTES, EOT, FAMILIES, logits_of, memories, tokens_of
from torch import Tensor
from torch.nn import functional as F

from positronic.generation import Heads, Uncached, find_exact, generate
from positronic.state import ForwardOptions
from positronic.text import byte_tokenizer
from positronic.tree import nodes
from remembering import equal_bits, tensors_of

TOKENS = byte_tokenizer()
PROMPTS = [PROMPT, [7], [9, EOT, 33, 4, 80, EOT, 5]]
N = 60
"""Tokens of a drafted text."""
T = 40
"""Tokens read at once: more than the token loops take, and no whole number of chunks."""
HOW = {"max_new_tokens": 10, "temperature": 0.8}
ORGANS = [(name, organ) for name, family in FAMILIES.items() for organ in family.opening if organ != "none"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family):
    """Every organ open; the draft heads know by heart what the model says after PROMPT."""
    model = family.speaking()
    emissions = run(model, n=N)
    teach(model, torch.cat([e.hidden for e in emissions]), torch.tensor(ids(emissions)))
    return model


@pytest.fixture(scope="module", params=ORGANS, ids="-".join)
def organ(request):
    """A family's model with one organ open, or all."""
    name, organ = request.param
    return FAMILIES[name].speaking(organ)


@pytest.fixture(params=[1, 2])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def teach(model, hidden: Tensor, said: Tensor) -> None:
    """Fit the heads alone to a text: head k, at the vector that a token was read off, to the token k places later."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.drafts.parameters(), lr=1e-2)
    for _ in range(40):
        logits = model.logits(model.drafts(hidden))  # (N, k, W)
        losses = [F.cross_entropy(logits[:-k, k - 1], said[k:]) for k in range(1, len(model.drafts) + 1)]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()


class Noted:
    """A proposer, and what it proposed after how many tokens."""

    def __init__(self, proposer):
        self.proposer, self.drafts = proposer, []

    def propose(self, hidden, history, room):
        draft = self.proposer.propose(hidden, history, room)
        self.drafts.append((len(history), draft.tokens))
        return draft

    def right(self, text: list[int], prompt: int) -> int:
        """Draft tokens that agree with the text up to the first that does not, over all rounds."""
        total = 0
        for place, draft in self.drafts:
            agree = [a == b for a, b in zip(draft, text[place - prompt :], strict=False)]
            total += [*agree, False].index(False)
        return total


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS, ids=["word", "letter", "documents"])
def test_cached_text_is_what_reading_anew_says(model, prompt):
    plain = run(model, prompt, 256)
    text, cached = ids(plain), model.logits(torch.cat([e.hidden for e in plain]))
    assert len(set(text)) > 50, "the text is too monotonous to prove anything"
    anew = logits_of(model, torch.tensor([[*prompt, *text[:-1]]]))[0, len(prompt) - 1 :]
    assert anew.argmax(-1).tolist() == text
    assert (cached - anew).abs().max() < 1e-4
    assert ids(run(Uncached(model), prompt, 32)) == text[:32]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS, ids=["word", "letter", "documents"])
def test_cached_text_is_what_reading_anew_for_every_token_says(model, prompt):
    assert ids(run(Uncached(model), prompt, 256)) == ids(run(model, prompt, 256))


def test_drafts_change_no_bit(model, n_threads):
    exact = find_exact(model, len(PROMPT) + N)
    assert exact.threads == n_threads, "no width passes at this number of threads"
    plain = run(model, n=N, exact=exact)
    text, hidden = ids(plain), {e.position: e.hidden for e in plain}
    assert len(set(text)) > 40, "the text is too monotonous to prove anything"

    def drafted(proposer):
        emissions = run(model, n=N, exact=exact, proposer=proposer)
        assert ids(emissions) == text
        for e in emissions:
            assert e.hidden is None or torch.equal(e.hidden, hidden[e.position]), e.position
        assert equal_bits((emissions[-1].state), (plain[-1].state))
        assert emissions[-1].forwards + emissions[-1].accepted == N
        return emissions[-1]

    assert drafted(Oracle(text)).forwards == N // 5
    for right in (0, 1, 2, 3) if n_threads == 1 else (2,):
        assert drafted(Oracle(text, wrong_from=right)).forwards == -(-N // (right + 1))
    blind = drafted(Blind())
    assert blind.accepted <= 0.03 * blind.proposed + 3, (blind.accepted, blind.proposed)
    honest = Noted(Heads(model))
    last = drafted(honest)
    assert last.accepted == honest.right(text, len(PROMPT)) > N / 2


@torch.no_grad()
def test_after_any_acceptance_the_state_is_that_of_plain_decoding(model, family, n_threads):
    """40 drafts of 4 after a token, of which any number is committed; documents end inside and outside of what is."""
    chance = random.Random(n_threads)
    truth = [EOT if chance.random() < 0.05 else chance.randrange(BYTES) for _ in range(5 * 40)]
    exact = find_exact(model, len(truth) + 16)

    def after(state, tokens: list[int], kept: int):
        block = torch.tensor([tokens + [0] * (exact.width - len(tokens))])
        with exact.threads_set():
            return model(block, state, ForwardOptions(keep_rollback=True)).state.commit(range(kept))

    plain, drafted = (model.init_state(1, capacity=exact.room) for _ in range(2))
    done, ends = 0, 0
    for _ in range(40):
        kept = chance.randrange(6)
        wrong = [EOT if chance.random() < 0.2 else chance.randrange(BYTES) for _ in range(5 - kept)]
        drafted = after(drafted, truth[done : done + kept] + wrong, kept)
        for token in truth[done : done + kept]:
            plain, ends = after(plain, [token], 1), ends + (token == EOT)
        done += kept
        assert equal_bits(drafted, plain), done
    assert ends > 2
    kinds = {type(state) for state in nodes(plain)}
    assert kinds >= family.states, "an organ's state was not compared"
    assert len(tensors_of(plain)) == family.n_tensors


def ask(model, prompt: str, **how):
    return list(generate(model, TOKENS, prompt, **(HOW | how)))[-1].result


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def exact(model):
    return find_exact(model, 160)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_interleaved_requests_leave_each_others_bits_alone(model, exact, mode):
    how, prompts = {"exact": mode == "exact" and exact, "seed": 4}, ("The first of two", "Another")
    alone = [ask(model, prompt, **how).state for prompt in prompts]
    pieces = zip_longest(*(generate(model, TOKENS, prompt, **HOW, **how) for prompt in prompts))
    last = list(zip(*pieces, strict=True))
    for row, other in zip(last, alone, strict=True):
        one = next(piece.result for piece in row if piece and piece.result).state
        assert one.tokens == other.tokens
        assert equal_bits(one.state, other.state)
        assert torch.equal(one.hidden, other.hidden)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_a_row_of_a_batch_keeps_its_bits_whatever_stands_beside_it(model, family, padded):
    """The other row says something else, ends its documents elsewhere, is shorter and starts with padding."""

    def first_row(seed: int) -> list[Tensor]:
        rows = tokens_of(2, T, seed=0)
        rows[1] = tokens_of(1, T, seed)
        rows[0, 9] = rows[1, 5 + 7 * seed] = EOT
        valid = torch.ones(2, T, dtype=torch.bool)
        valid[1, : 3 + seed] = not padded
        state, seen = model.init_state(2), []
        for piece, real in zip(rows.split([25, 5, 1, 9], 1), valid.split([25, 5, 1, 9], 1), strict=True):
            out = model(piece, state, ForwardOptions(valid=real))
            state, seen = out.state, [*seen, out.hidden[0]]
        return [
            *seen,
            model(rows, options=ForwardOptions(valid=valid)).hidden[0],
            *tensors_of(state.select(torch.tensor([0]))),
        ]

    one, other = first_row(1), first_row(2)
    assert len(one) == len(other) == 4 + 1 + family.n_tensors
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_request_after_fifty_others_is_the_same_request_first(model, exact):
    """A new request remembers nothing of those before."""
    first = ask(model, "Once more", seed=9, exact=exact)
    for seed in range(50):
        ask(model, "x" * (1 + seed), seed=seed, max_new_tokens=1)
    later = ask(model, "Once more", seed=9, exact=exact)
    assert (later.tokens, later.text) == (first.tokens, first.text)
    assert equal_bits(later.state.state, first.state.state)
    assert torch.equal(later.state.hidden, first.state.hidden)


def test_a_frozen_request_hangs_on_its_prompt_alone(model, family, exact):
    how = {"exact": exact, "seed": 3}
    alone = ask(model, "Remember this", freeze_memory=True, **how).state
    assert not any(memory.any() for memory in memories(alone)), "a frozen memory was written"
    ask(model, "Remember nothing", **how)
    again = ask(model, "Remember this", freeze_memory=True, **how).state
    assert again.tokens == alone.tokens
    assert torch.equal(again.hidden, alone.hidden)

    before = ask(model, "Remember this", **how).state
    assert all(memory.any() for memory in memories(before))
    kept = [memory.clone() for memory in memories(before)]
    assert bool(kept) == family.memorises
    frozen = ask(model, " and go on", freeze_memory=True, state=before, **how).state
    assert same(memories(frozen), kept)
    assert same(memories(before), kept)
    written = ask(model, " and go on", state=before, **how).state
    assert torch.equal(written.hidden, frozen.hidden) != family.memorises, "writing makes a difference, or may not"


@pytest.mark.parametrize("speculative", [False, True])
def test_kept_memory_goes_on_as_one_long_conversation(model, exact, speculative):
    how = {"exact": exact, "temperature": 0, "speculative": speculative}
    whole = ask(model, "Remember this", max_new_tokens=36, **how)
    parts = [ask(model, "Remember this", max_new_tokens=12, **how)]
    for _ in range(2):
        parts.append(ask(model, "", max_new_tokens=12, state=parts[-1].state, **how))
    assert sum((part.tokens for part in parts), ()) == whole.tokens
    assert equal_bits((parts[-1].state.state), (whole.state.state))
    assert torch.equal(parts[-1].state.hidden, whole.state.hidden)
    forgotten = ask(model, "", max_new_tokens=12, **how)
    assert forgotten.tokens != parts[1].tokens, "nothing was remembered"


def ended(*places: int) -> Tensor:
    """(2, T) tokens with documents that end at these places."""
    return tokens_of(2, T).index_fill(1, torch.tensor(places, dtype=torch.long), EOT)


@torch.no_grad()
def test_an_organ_that_is_open_is_heard(organ):
    deaf = FAMILIES[organ.config.kind].speaking("none")
    assert (logits_of(organ, ended(13)) - logits_of(deaf, ended(13))).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_the_future_cannot_change_the_past(organ, cached):
    def hidden(tokens):
        return organ(tokens, organ.init_state(2) if cached else None).hidden

    tokens = ended(13)
    read = hidden(tokens)
    for t in (1, 9, 17, 33):
        other = torch.cat([tokens[:, :t], tokens_of(2, T - t, seed=5).index_fill(1, torch.tensor([2]), EOT)], 1)
        changed = hidden(other)
        assert torch.equal(changed[:, :t], read[:, :t]), f"outputs before {t} moved"
        assert not torch.equal(changed[:, t:], read[:, t:])


@torch.no_grad()
@pytest.mark.parametrize("cut", [(T,), (24, 16), (3, 1, 36), (1,) * T], ids=["whole", "two", "three", "singly"])
def test_however_tokens_are_split_they_say_the_same(organ, cut):
    tokens, state, read = ended(13), organ.init_state(2), []
    for piece in tokens.split(list(cut), 1):
        out = organ(piece, state)
        state, read = out.state, [*read, organ.logits(out.hidden)]
    assert (torch.cat(read, 1) - logits_of(organ, tokens)).abs().max() < 1e-4


@torch.no_grad()
def test_packed_documents_are_read_as_if_each_stood_alone(organ):
    ends = (2, 19, 30)
    tokens = ended(*ends)
    packed = organ(tokens).hidden
    apart = [organ(tokens[:, a:b]).hidden for a, b in pairwise((0, *(end + 1 for end in ends), T))]
    assert relative_error(packed, torch.cat(apart, 1)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_left_padding_changes_nothing(organ, cached):
    def logits(tokens, valid=None):
        state = organ.init_state(2) if cached else None
        return organ.logits(organ(tokens, state, ForwardOptions(valid=valid)).hidden)

    tokens = ended(13)
    padded = torch.cat([tokens_of(2, 6, seed=3), tokens], 1)
    valid = (torch.arange(T + 6) >= 6).expand(2, -1)
    assert (logits(padded, valid)[:, 6:] - logits(tokens)).abs().max() < 1e-4
