"""BlackHoleRoPE: rotations stay a group and relative however they bend, energy stays within its bounds."""

import pytest
import torch
from torch import Tensor

from positronic.errors import ConfigError
from positronic.nn.black_hole_rope import BlackHoleRoPE, BlackHoleRoPEConfig
from positronic.nn.rope import rotate
from positronic.state import ForwardOptions, Step

G, PAIRS, D = 3, 28, 32


def opened(scale: float = 1.0, seed: int = 0) -> BlackHoleRoPE:
    rope, generator = BlackHoleRoPEConfig().build(G, PAIRS), torch.Generator().manual_seed(seed)
    for p in rope.parameters():
        torch.nn.init.normal_(p, std=scale, generator=generator)
    return rope


def places(*positions: int) -> Tensor:
    return torch.tensor([positions])


def turned(rope: BlackHoleRoPE, x: Tensor, position: int) -> Tensor:
    """x (1, G, T, K) as if all its tokens stood there."""
    return rotate(x, *rope.rotation(torch.full((1, x.shape[2]), position)))


def vectors(length: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(1, G, length, 2 * PAIRS, generator=torch.Generator().manual_seed(seed))


def step_of(length: int, rows: int = 1) -> Step:
    return Step.of(torch.zeros(rows, length, dtype=torch.long))


def stream(length: int, seed: int = 2, rows: int = 1) -> Tensor:
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_new_one_is_standard_rotary_and_leaves_values_alone_to_the_bit():
    rope = BlackHoleRoPEConfig().build(G, PAIRS)
    cos, sin = (x[..., PAIRS:] for x in rope.rotation(torch.arange(2048)[None]))
    angle = torch.arange(2048, dtype=torch.float64)[:, None] * 10_000.0 ** (-torch.arange(PAIRS).double() / PAIRS)
    assert (cos - angle.cos()).abs().max() < 2e-4, "frequencies are float32"
    assert (cos[:, :, :64] - angle.cos()[:64]).abs().max() < 5e-6
    assert (sin[:, :, :64] - angle.sin()[:64]).abs().max() < 5e-6
    e, _ = rope.energy(stream(300), step_of(300))
    assert torch.equal(e, torch.ones(1, 300, G))


@torch.no_grad()
def test_rotations_keep_lengths_and_add_up():
    rope, x = opened(), vectors()
    assert (turned(rope, x, 977).norm(dim=-1) / x.norm(dim=-1) - 1).abs().max() < 1e-6
    both = turned(rope, turned(rope, x, 41), 700)
    assert (both - turned(rope, x, 741)).abs().max() < 1e-4
    assert (turned(rope, x, 0) - x).abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("shift", [777, 2048])
def test_scores_depend_on_differences_of_positions_alone(shift):
    rope, q, k = opened(), vectors(40), vectors(40, seed=3)
    at = torch.arange(40)[None]

    def scores(positions: Tensor) -> Tensor:
        turn = rope.rotation(positions)
        q_turned, k_turned = rotate(q, *turn), rotate(k, *turn)
        return -torch.cdist(q_turned, k_turned).square() / (2 * PAIRS) ** 0.5

    here, there = scores(at), scores(at + shift)
    assert (here - there).abs().max() < 1e-4
    assert (here - scores(at * 2)).abs().max() > 0.1, "positions make no difference"


@torch.no_grad()
def test_bending_moves_frequencies_by_at_most_half_an_e_fold():
    rope = opened(scale=30.0)
    straight = BlackHoleRoPEConfig().build(G, PAIRS)
    bent, sin = (x.rotation(places(1))[1][..., -(PAIRS - 8) :] for x in (rope, straight))  # of small angles
    ratios = bent.asin() / sin.asin()
    assert ratios.log().abs().max() < 0.5 + 1e-3
    assert ratios.log().abs().max() > 0.4
    assert (ratios[:, 0] != ratios[:, 1]).any(), "heads bend alike"


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.5, 5.0, 500.0])
def test_energy_stays_within_its_bounds_and_uses_them(scale):
    rope = opened(scale)
    e, _ = rope.energy(stream(5000), step_of(5000))
    assert e.min() >= 0.5 - 1e-6
    assert e.max() <= 2 + 1e-6
    assert e.max() - e.min() > 0.5


@torch.no_grad()
def test_energy_is_the_bounded_sum_of_waves_and_discrepancy():
    rope, n, t = opened(), stream(50), 41
    e, _ = rope.energy(n, step_of(50))
    for head in range(G):
        s = rope.level[head].double()
        for b in range(8):
            turn = torch.tensor(2 * torch.pi * t / 2 ** (b + 3), dtype=torch.float64)
            s = s + rope.waves[head, b] * turn.cos() + rope.waves[head, 8 + b] * turn.sin()
        apart, size = (n[0, t] - n[0, t - 1]).norm(), n[0, t].norm() + n[0, t - 1].norm()
        s = s + rope.surprise * apart / size
        expected = 0.5 + 1.5 * torch.sigmoid(s - torch.log(torch.tensor(2.0)))
        assert (e[0, t, head] - expected).abs() < 1e-5


@torch.no_grad()
def test_discrepancy_is_0_at_the_first_token_and_1_where_the_stream_turns_over():
    rope = BlackHoleRoPEConfig().build(1, PAIRS)
    torch.nn.init.constant_(rope.surprise, 1.0)
    n = stream(4)
    n[:, 2], n[:, 3] = n[:, 1], -n[:, 1]
    e, _ = rope.energy(n, step_of(4))
    gate = lambda d: 0.5 + 1.5 / (1 + 2 * torch.exp(torch.tensor(-d)))  # noqa: E731
    assert e[0, 0] == 1.0
    assert e[0, 2] == 1.0
    assert abs(e[0, 3, 0] - gate(1.0)) < 1e-5


@torch.no_grad()
def test_waves_count_from_the_beginning_of_a_document():
    rope, n = opened(), stream(30, rows=2)
    tokens = torch.zeros(2, 30, dtype=torch.long)
    segments = torch.tensor([[0] * 11 + [1] * 19, [0] * 30])
    packed, _ = rope.energy(n, Step.of(tokens, None, ForwardOptions(segments=segments)))
    alone, _ = rope.energy(n[:1, 11:], step_of(19))
    assert (packed[:1, 11:] - alone).abs().max() < 1e-6
    whole, _ = rope.energy(n, step_of(30, rows=2))
    assert (packed[0, 11:] - whole[0, 11:]).abs().max() > 0.1, "the document began unnoticed"
    assert torch.equal(packed[1], whole[1])


def test_bounds_that_exclude_a_plain_value_are_refused():
    with pytest.raises(ConfigError, match="both sides"):
        BlackHoleRoPEConfig(least_energy=1.0)
    with pytest.raises(ConfigError, match="harmonics"):
        BlackHoleRoPEConfig(harmonics=0)
