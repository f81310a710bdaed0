"""Chunks: which tokens each is made of, what each token reads and what a buffer holds, however calls are cut."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.nn.chunks import Chunks
from positronic.nn.real_tokens import Order, in_front, in_place, take
from positronic.state import DecodeState, ForwardOptions, Step

B, T = 3, 41
Version = tuple[int, ...]
"""What a memory is made of: the tokens of all its chunks, in order. (): a beginning."""
CUTS = [(T,), (1,) * T, (5, 1, 20, 15), (17, 24), (2, 2, 2, 35)]


def sample(seed: int) -> tuple[Tensor, Tensor]:
    """Which tokens are real, and the document of each; the rows are unlike, and the last is of one document."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(B, T, generator=g) < 0.8
    segments = (torch.rand(B, T, generator=g) < 0.1).long().cumsum(1)
    segments[-1] = 0
    return valid, segments


def by_hand(valid: Tensor, segments: Tensor, size: int) -> list[list[Version | None]]:
    """The version that each token of each row reads; None at padding."""
    found: list[list[Version | None]] = []
    for b in range(B):
        version, chunk, document, row = (), [], None, []
        for t in range(T):
            if not valid[b, t]:
                row.append(None)
                continue
            if document != segments[b, t]:
                version, chunk, document = (), [], segments[b, t]
            row.append(version)
            chunk.append(t)
            if len(chunk) == size:
                version, chunk = (*version, *chunk), []
        found.append(row)
    return found


class Memory:
    """One row's, made of what `Chunks` says, call by call."""

    def __init__(self, size: int):
        self.version: Version = ()
        self.buffer = torch.full((size,), -1)

    def read(self, ids: Tensor, chunks: Chunks, b: int, continued: bool) -> tuple[list[Version], list[Version]]:
        """What each token of a call reads, and all versions in it."""
        known = torch.cat([self.buffer, ids]) if continued else ids
        versions = [self.version]
        for tokens, complete, anew in zip(
            chunks.tokens[b], chunks.complete[b], mask(chunks.anew, chunks.complete)[b], strict=True
        ):
            base = () if anew else versions[-1]
            versions.append((*base, *known[tokens].tolist()) if complete else base)
        first = mask(chunks.first, chunks.version)[b]
        said = [() if f else versions[v] for f, v in zip(first, chunks.version[b], strict=True)]
        if continued:
            self.version = () if mask(chunks.forgets, chunks.held[:, 0])[b] else versions[-1]
            self.buffer = known[chunks.buffer[b]].masked_fill(~chunks.held[b], -1)
        return said, versions


def mask(given: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=torch.bool) if given is None else given


def steps_of(cut, valid: Tensor | None, segments: Tensor | None, cached: bool):
    """The steps of a row in pieces, and where each begins."""
    state = DecodeState.new([], B, torch.device("cpu"))
    number = None if segments is None else segments
    for a, b in pairwise([0, *torch.tensor(cut).cumsum(0).tolist()]):
        wishes = ForwardOptions(
            valid=None if valid is None else valid[:, a:b], segments=None if number is None else number[:, a:b]
        )
        step = Step.of(torch.zeros(B, b - a, dtype=torch.long), state if cached else None, wishes)
        yield a, b, step
        state = step.next_state(state, [])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_token_reads_the_chunks_before_its_own_of_its_document(size, padded, cached, seed):
    valid, segments = sample(seed)
    valid = valid if padded else torch.ones_like(valid)
    for cut in CUTS if cached else CUTS[:1]:
        # A document of one call is numbered anew in the next: cuts fall where no document begins.
        bounds = torch.tensor(cut).cumsum(0)[:-1]
        numbers = segments.clone()
        for b in range(B):
            for bound in bounds.tolist():
                numbers[b, bound:] += numbers[b, bound - 1] - numbers[b, bound]
        truth, memories = by_hand(valid, numbers, size), [Memory(size) for _ in range(B)]
        for a, b, step in steps_of(cut, valid if padded else None, numbers, cached):
            chunks = Chunks.of(step.place, step.fresh, step.valid, size, cached, grouped=True)
            ids = torch.arange(a, b)
            for row, memory in enumerate(memories):
                said, versions = memory.read(ids, chunks, row, cached)
                first = mask(chunks.first, chunks.version)[row]
                for t in range(b - a):
                    if valid[row, a + t]:
                        assert said[t] == truth[row][a + t], (row, a + t)
                        if not first[t]:
                            place = int(chunks.groups.member[row, t])
                            assert chunks.groups.members[row].flatten()[place] == t
                            assert versions[place // size] == said[t]


def test_where_the_host_may_not_look_the_layout_is_the_same(monkeypatch):
    valid, segments = sample(0)
    for a, b, step in steps_of((20, 21), valid, segments, cached=True):
        given = step.place, step.fresh, step.valid, 30, True, True
        seen = Chunks.of(*given)
        with monkeypatch.context() as patch:
            patch.setattr("positronic.nn.chunks._on_host", lambda x: False)
            blind = Chunks.of(*given)
        assert torch.equal(seen.version, blind.version), (a, b)
        assert torch.equal(seen.buffer, blind.buffer)
        assert blind.tokens.shape[1] == 1 >= seen.tokens.shape[1]
        assert torch.equal(mask(seen.first, valid[:, a:b]), blind.first)
        n = seen.tokens.shape[1]
        assert torch.equal(seen.complete, blind.complete[:, :n])
        assert not blind.complete[:, n:].any()


def test_real_tokens_come_in_front_and_go_back():
    valid, _ = sample(1)
    order, x = Order.of(valid), torch.arange(B * T).view(B, T, 1)
    front = in_front(x, order)
    for b in range(B):
        assert torch.equal(front[b, : order.n_real[b], 0], x[b, valid[b], 0])
    assert torch.equal(in_place(front, order), x)
    assert in_front(x, None) is x


def test_tokens_are_taken_whole():
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[[0, 4], [2, 2]], [[1, 3], [0, 0]]])
    assert torch.equal(take(x, places), torch.stack([x[0][places[0]], x[1][places[1]]]))
    assert F.mse_loss(take(x, places[:, 0]), torch.stack([x[0][places[0, 0]], x[1][places[1, 0]]])) == 0
