"""Looking back: taps are the real tokens before, of the same document, however calls are cut; and the convolution."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from positronic.nn.causal_conv import CausalConv
from positronic.nn.causal_window import WindowState, look_back
from positronic.state import DecodeState, ForwardOptions, Step

N, D, T = 3, 2, 14


def sample(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, which of them are real, and the document of each; two rows unlike in all three."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, T, D, generator=generator)
    valid = torch.rand(2, T, generator=generator) < 0.7
    segments = (torch.rand(2, T, generator=generator) < 0.2).long().cumsum(1)
    return x, valid, segments


def by_hand(x: Tensor, valid: Tensor, segments: Tensor) -> Tensor:
    """(2, T, N, D): the definition, one token at a time; zero at padding."""
    found = torch.zeros(2, T, N, D)
    for b in range(2):
        for t in range(T):
            before = [s for s in range(t) if valid[b, s]][::-1][:N]
            for j, s in enumerate(before):
                if valid[b, t] and segments[b, s] == segments[b, t]:
                    found[b, t, j] = x[b, s]
    return found


def taps_of(x: Tensor, cut, valid: Tensor | None, segments: Tensor | None, cached: bool = True) -> Tensor:
    state = DecodeState.new([WindowState.new(x, 2, N, D) if cached else None], 2, torch.device("cpu"))
    seen, began = [], None
    if segments is not None:  # the documents' own numbers: pieces need not know each other's
        began = Step.of(torch.zeros(2, T, dtype=torch.long), None, ForwardOptions(valid=valid, segments=segments)).began
    bounds = torch.tensor([0, *cut]).cumsum(0).tolist()
    for a, b in pairwise(bounds):
        tokens = torch.zeros(2, b - a, dtype=torch.long)
        part = {"valid": None if valid is None else valid[:, a:b]}
        step = Step.of(tokens, state if cached else None, ForwardOptions(**part))
        if segments is not None:
            step = replace(step, segments=segments[:, a:b], began=began[:, a:b])
        taps, after = look_back(x[:, a:b], N, step, state.layers[0])
        if cached:
            state = step.next_state(state, [after])
        seen.append(taps.flip(2))
    return torch.cat(seen, 1)


@pytest.mark.parametrize("cut", [(T,), (5, 1, 8), (2, 2, 10), (1,) * T])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_taps_are_the_last_real_tokens_of_the_document(cut, padded, several):
    x, valid, segments = sample()
    valid = valid if padded else torch.ones_like(valid)
    segments = segments if several else torch.zeros_like(segments)
    truth = by_hand(x, valid, segments)
    assert truth.any()
    found = taps_of(x, cut, valid if padded else None, segments)
    assert torch.equal(found[valid], truth[valid])
    if cut == (T,):
        whole = taps_of(x, cut, valid if padded else None, segments if several or padded else None, cached=False)
        assert torch.equal(whole[valid], truth[valid])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kept", range(T + 1))
def test_a_committed_tail_is_that_of_the_tokens_kept(padded, kept):
    x, valid, _ = sample(seed=3)
    tokens, part = torch.zeros(2, T, dtype=torch.long), valid if padded else None
    state = DecodeState.new([], 2, torch.device("cpu"))
    step = Step.of(tokens, state, ForwardOptions(valid=part, keep_rollback=True))
    _, after = look_back(x, N, step, WindowState.new(x, 2, N, D))
    committed = after.commit(range(kept))
    for b in range(2):
        real = [x[b, t] for t in range(kept) if not padded or valid[b, t]]
        expected = torch.stack([torch.zeros(D)] * N + real)[-N:]
        assert torch.equal(committed.rows[b], expected)


@torch.no_grad()
@pytest.mark.parametrize("cut", [(T,), (5, 1, 8), (1,) * T])
def test_a_convolution_is_the_librarys_and_keeps_its_bits_however_calls_are_cut(cut):
    x, conv = sample()[0], CausalConv(D, 5)
    torch.nn.init.normal_(conv.past, generator=torch.Generator().manual_seed(1))
    weight = torch.cat([conv.past.flip(0), conv.now[None]]).T[:, None]  # (D, 1, 5), oldest tap first
    truth = torch.nn.functional.conv1d(torch.nn.functional.pad(x.mT, (4, 0)), weight, groups=D).mT
    tokens = torch.zeros(2, T, dtype=torch.long)
    places = torch.arange(T).expand(2, -1)
    whole, _ = conv(x, Step(tokens, places))
    assert (whole - truth).abs().max() < 1e-6
    state, pieces = conv.init_state(2), []
    for piece, at in zip(x.split(list(cut), 1), places.split(list(cut), 1), strict=True):
        z, state = conv(piece, Step(tokens[:, : piece.shape[1]], at, segments=tokens[:, : piece.shape[1]]), state)
        pieces.append(z)
    assert torch.equal(torch.cat(pieces, 1), whole)


def test_a_new_convolution_passes_on_what_it_gets():
    conv, x = CausalConv(64, 5), torch.randn(2, T, 64)
    tokens = torch.zeros(2, T, dtype=torch.long)
    z, _ = conv(x, Step(tokens, tokens))
    assert 0 < (z - x).std() < 0.06
    assert torch.equal(z[:, 0], x[:, 0])


def test_of_the_shifted_channels_every_second_begins_with_the_token_before():
    conv, x = CausalConv(6, 3, shifted=4), torch.randn(2, T, 6)
    tokens = torch.zeros(2, T, dtype=torch.long)
    z, _ = conv(x, Step(tokens, torch.arange(T).expand(2, -1), segments=tokens))
    wanted = x.clone()
    wanted[:, 1:, [1, 3]], wanted[:, 0, [1, 3]] = x[:, :-1, [1, 3]], 0.0
    assert (z - wanted).abs().max() < 0.3
