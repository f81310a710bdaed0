"""The last W tokens: who sees whom is plain sliding-window attention, however calls are cut, and no byte is added."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from positronic import tree
from positronic.nn.real_tokens import in_front
from positronic.nn.ring import BLOCK, RingState, Sight
from positronic.state import DecodeState, ForwardOptions, Step

B, T = 2, 150


def sample(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(B, T, generator=g) < 0.8, (torch.rand(B, T, generator=g) < 0.03).long().cumsum(1)


def by_hand(valid: Tensor, segments: Tensor, window: int) -> list[list[list[int]]]:
    """The tokens that each real one sees."""
    return [
        [
            [s for s in range(t + 1) if valid[b, s]][-window:]
            if segments is None
            else [s for s in [s for s in range(t + 1) if valid[b, s]][-window:] if segments[b, s] == segments[b, t]]
            for t in range(T)
        ]
        for b in range(B)
    ]


@pytest.mark.parametrize("window", [1, 3, 8, 64, 100])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cut", [None, (T,), (1,) * 20 + (130,), (65, 85), (7, 66, 77)])
def test_a_token_sees_the_last_tokens_of_its_document(window, padded, cut):
    valid, segments = sample(window)
    valid = valid if padded else torch.ones_like(valid)
    if cut is not None:  # a document of one call is numbered anew in the next: cuts fall where none begins
        for bound in torch.tensor(cut).cumsum(0)[:-1].tolist():
            segments[:, bound:] += (segments[:, bound - 1] - segments[:, bound])[:, None]
    truth, seen = by_hand(valid, segments, window), [{} for _ in range(B)]
    ring = RingState.new(torch.zeros(()), B, window, 1)
    state = DecodeState.new([], B, torch.device("cpu"))
    for a, b in pairwise([0, *torch.tensor(cut or (T,)).cumsum(0).tolist()]):
        wishes = ForwardOptions(valid=valid[:, a:b] if padded else None, segments=segments[:, a:b])
        step = Step.of(torch.zeros(B, b - a, dtype=torch.long), None if cut is None else state, wishes)
        sight = Sight.of(step, window)
        ids = torch.arange(a, b).float().expand(B, -1)[..., None]  # (B, T, 1)
        front = rows = in_front(ids, sight.order)
        if cut is not None:
            rows, ring = ring.extended(ids, sight, step)
            state = step.next_state(state, [])
        met = sight.windows(rows[:, None], b - a)[:, 0, :, :, 0]  # (B, n, L)
        assert torch.equal(sight.blocks(ids).flatten(1)[:, : b - a], front[..., 0])
        assert met.shape[-1] <= window + BLOCK + BLOCK
        for row in range(B):
            sees = [
                sorted(met[row, i][bias == 0].tolist()) for i, block in enumerate(sight.bias[row]) for bias in block
            ]
            seen[row] |= dict(zip(front[row, :, 0].int().tolist(), sees, strict=False))
    for row in range(B):
        for t in range(T):
            if valid[row, t]:
                assert seen[row][t] == truth[row][t], (row, t)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("drafted", "kept"), [(11, 0), (11, 1), (11, 3), (11, 11), (30, 0), (30, 7), (30, 30)])
def test_a_committed_ring_is_that_of_the_tokens_kept(padded, drafted, kept):
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(B, 9 + drafted, 2, generator=g)
    valid = torch.rand(B, drafted, generator=g) < 0.6 if padded else None
    state, ring = DecodeState.new([], B, torch.device("cpu")), RingState.new(rows, B, 6, 2)
    draft = ForwardOptions(valid=valid, keep_rollback=True)
    for part, options in ((slice(9), ForwardOptions()), (slice(9, None), draft)):
        step = Step.of(torch.zeros(rows[:, part].shape[:2], dtype=torch.long), state, options)
        _, ring = ring.extended(rows[:, part], Sight.of(step, 6), step)
        state = step.next_state(state, [])
    state, ring = state.commit(range(kept)), ring.commit(range(kept))
    for b in range(B):
        real = rows[b, 9 : 9 + kept] if valid is None else rows[b, 9 : 9 + kept][valid[b, :kept]]
        assert torch.equal(ring.unrolled(state.position)[b], torch.cat([rows[b, :9], real])[-6:])


def test_a_ring_grows_by_no_byte_and_holds_no_call():
    ring = RingState.new(torch.zeros(()), 1, 6, 2)
    size, state = tree.n_bytes(ring), DecodeState.new([], 1, torch.device("cpu"))
    for tokens in (1, 4, 500, 1):
        step = Step.of(torch.zeros(1, tokens, dtype=torch.long), state)
        _, ring = ring.extended(torch.ones(1, tokens, 2), Sight.of(step, 6), step)
        state = step.next_state(state, [])
        assert tree.n_bytes(ring) == size
        assert ring.rows.untyped_storage().nbytes() <= 2 * size
