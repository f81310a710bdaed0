"""Learned places are counted in documents, whatever a call brings; a stretch that reaches nothing changes nothing."""

import math

import pytest
import torch

from positronic.errors import ConfigError
from positronic.nn.norm import LayerNorm, LayerNormConfig
from positronic.nn.positions import LearnedPositions
from positronic.nn.rope import StretchConfig, rotation
from positronic.state import DecodeState, ForwardOptions, Step

END = 7
PLACES = LearnedPositions(32, 1)
with torch.no_grad():
    PLACES.weight.copy_(torch.arange(32.0)[:, None])


def places(tokens, state=None, **wishes):
    """Which place each token has, and the conversation after the call."""
    step = Step.of(torch.tensor(tokens), state, ForwardOptions(**wishes), END)
    return PLACES(step)[..., 0].int().tolist(), step.next_state(state, [], END)


def test_a_document_begins_at_place_0_and_its_end_is_one_of_its_own():
    assert places([[1, 2, 3, END, 4, 5], [END, END, 1, 2, 3, 4]])[0] == [[0, 1, 2, 0, 0, 1], [0, 0, 0, 1, 2, 3]]


def test_padding_is_at_no_place():
    valid = torch.tensor([[False, False, True, True, False, True], [True, True, True, True, False, False]])
    found, _ = places([[0, 0, 1, 2, 0, 3], [1, END, 2, 3, 0, 0]], valid=valid)
    assert [found[0][i] for i in (2, 3, 5)] == [0, 1, 2]
    assert found[1][:4] == [0, 0, 0, 1]
    assert max(map(max, found)) < 3, "padding behind a full document is not beyond the table"


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_state_goes_on_counting(cut):
    tokens = [[1, 2, END, 3, 4, 5, END, 6, 8], [1, 2, 3, 4, 5, 6, 8, 9, 9]]
    whole, _ = places(tokens)
    state = DecodeState.new([], 2, torch.device("cpu"))
    found = [[], []]
    for piece in ([row[:cut] for row in tokens], [row[cut:] for row in tokens]):
        read, state = places(piece, state)
        found = [a + b for a, b in zip(found, read, strict=True)]
    assert found == whole


def test_without_a_state_a_call_goes_on_where_its_positions_say():
    tokens = torch.tensor([[1], [2]])
    assert PLACES(Step(tokens, torch.tensor([[3], [9]])))[..., 0].int().tolist() == [[3], [9]]


def test_a_stretch_moves_slow_pairs_alone():
    positions = torch.arange(50)[None]
    plain, reached = rotation(positions, 64, 1e4), rotation(positions, 64, 1e4, StretchConfig(factor=4.0, trained=1000))
    assert torch.equal(plain[1][..., 0], reached[1][..., 0])
    assert torch.allclose(reached[1][..., -1] * 4, plain[1][..., -1], atol=1e-4)  # small angles are their sines
    none = rotation(positions, 64, 1e4, StretchConfig(factor=1.0))
    assert all(torch.equal(a, b) for a, b in zip(plain, none, strict=True))


def test_far_angles_are_those_of_the_place():
    place = 3_999_999
    near, far = (rotation(torch.tensor([[place]]), 64, 1e4, far=far)[0][0, 0, 0, 32:] for far in (False, True))
    exact = torch.tensor([math.cos(place * 1e4 ** (-pair / 32)) for pair in range(32)])
    assert far.dtype == torch.float32
    assert (far - exact).abs().max() < 1e-6
    assert (near - exact).abs().max() > 0.01


@pytest.mark.parametrize("wrong", [{"factor": 0.5}, {"slow_turns": 4.0}, {"slow_turns": 0.0}, {"trained": 0}])
def test_a_stretch_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match="rope_stretch has"):
        StretchConfig(**wrong)


def test_a_layer_norm_is_pytorchs_and_computes_in_float32():
    norm, x = LayerNormConfig(epsilon=1e-3).build(16), torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    assert isinstance(norm, LayerNorm)
    with torch.no_grad():
        norm.bias.fill_(0.5)
    assert torch.equal(norm(x), torch.nn.functional.layer_norm(x, (16,), eps=1e-3) + 0.5)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match=r"layer_norm\.epsilon is 0"):
        LayerNormConfig(epsilon=0.0)
