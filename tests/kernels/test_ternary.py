"""Ternary weights and their bytes: golden vectors of the specification, and what holds for any numbers."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from positronic.errors import CheckpointError
from positronic.kernels.ternary import (
    Scale,
    Trits,
    packed_bytes,
    packed_weights,
    product,
    quantised_activations,
    quantised_weights,
    unpacked_weights,
)

WIDTHS = range(64, 449, 64)


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def half_bits(x: Tensor) -> list[int]:
    return [bits & 0xFFFF for bits in x.half().view(torch.int16).flatten().tolist()]


def test_small_weights_get_the_scale_of_their_group():
    w = torch.zeros(1, 128)
    w[0, :4] = torch.tensor([0.01, -0.004, 0.002, 0.00005])
    found = quantised_weights(w)
    assert found.t[0, :4].tolist() == [1, -1, 1, 0]
    assert not found.t[0, 4:].any()
    assert half_bits(found.gamma) == [0x081C]


def test_a_weight_below_half_its_scale_is_zero():
    w = 0.004 * torch.tensor([-1.0, 1.0]).repeat(1, 64)
    w[0, 5], w[0, 7] = 0.0019, 0.002
    found = quantised_weights(w)
    assert found.t[0, 4:9].tolist() == [-1, 0, -1, 1, -1]
    assert half_bits(found.gamma) == [0x1C10]


def test_a_tie_is_zero_and_equal_weights_are_one():
    assert quantised_weights(torch.full((1, 128), 0.03)).t.eq(1).all()
    w = torch.ones(1, 128)
    w[0, 0], w[0, 1:3] = 0.5, 1.25  # the mean is 1
    assert quantised_weights(w).t[0, :3].tolist() == [0, 1, 1]


def test_activations_are_whole_shares_of_the_largest():
    x = torch.zeros(64)
    x[:4] = torch.tensor([1.0, -0.5, 0.00394, 2 / 254])
    found = quantised_activations(x)
    assert found.q[:4].tolist() == [127, -64, 1, 1]
    assert found.s.item() == pytest.approx(0.007874016, rel=1e-6)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_no_number_in_its_block_alone(value):
    x = torch.ones(2, 128)
    x[1, 70] = value
    found = quantised_activations(x).values()
    assert found[1, 64:].isnan().all()
    assert found[0].isfinite().all()
    assert found[1, :64].isfinite().all()


@pytest.mark.parametrize("x", [torch.zeros(64), torch.full((64,), 1e-42), torch.full((64,), 3e38)])
def test_blocks_at_the_ends_of_float32_are_numbers(x):
    assert quantised_activations(x).values().isfinite().all()


@pytest.mark.parametrize("power", [-9, 5])
def test_a_power_of_two_passes_through_exactly(power):
    x, w = matrix(5, 192, 1), quantised_weights(matrix(7, 192))
    wanted = product(quantised_activations(x), w) * 2.0**power
    assert product(quantised_activations(x * 2.0**power), w).equal(wanted)


@pytest.mark.parametrize("columns", [64, 128, 192, 448])
def test_the_product_is_that_of_integers_in_the_stated_order(columns):
    x, w = quantised_activations(matrix(3, columns, 1)), quantised_weights(matrix(9, columns))
    y = np.zeros((3, 9), np.float32)
    for b in range(columns // 64):
        here = slice(64 * b, 64 * b + 64)
        whole = x.q[:, here].numpy().astype(np.int64) @ w.t[:, here].numpy().astype(np.int64).T
        share = w.gamma[:, b // 2].numpy()[None] * x.s[:, b].numpy()[:, None]
        y = y + whole.astype(np.float32) * share
    assert np.array_equal(product(x, w).numpy(), y)


def test_the_largest_levels_and_trits_fit():
    x, t = torch.full((1, 64), 127.0), torch.ones(1, 64, dtype=torch.int8)
    w = Trits(t, torch.ones(1, 1), 128)
    assert product(quantised_activations(x), w).item() == 64 * 127.0


@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize("group", [64, 128])
def test_requantising_keeps_trits_and_not_scales(group, scale):
    found = quantised_weights(matrix(12, 320), group, scale)
    again = quantised_weights(found.weights(), group)
    assert again.t.equal(found.t)
    zeros = torch.stack([(part == 0).float().mean(-1) for part in found.t.split(group, -1)], -1)
    shrunk = found.gamma * (1 - zeros)
    assert (again.gamma / shrunk - 1).abs().max() < 2e-3
    assert 0.1 < zeros.mean() < 0.5


def test_scales_out_of_float16_stay_float32():
    usual = quantised_weights(matrix(2, 128)).gamma
    assert usual.half().float().equal(usual)
    w = 1e-3 * matrix(2, 128)
    gamma = quantised_weights(w).gamma
    assert not gamma.half().float().equal(gamma)
    assert (gamma[:, 0] / w.abs().mean(-1) - 1).abs().max() < 1e-6


def test_a_group_of_zeros_has_no_scale_and_no_part_in_the_range():
    w = matrix(2, 256)
    w[0, :128] = 0.0
    found = quantised_weights(w)
    assert found.gamma[0, 0] == 0
    assert not found.t[0, :128].any()
    assert found.gamma.half().float().equal(found.gamma)


def one(row: int, column: int, value: int) -> Tensor:
    t = torch.zeros(16, 64, dtype=torch.int8)
    t[row, column] = value
    return packed_weights(Trits(t, torch.zeros(16, 1), 128))


@pytest.mark.parametrize(
    ("place", "value", "byte", "code"),
    [((0, 0), 1, 32, 0x56), ((0, 4), -1, 32, 0x51), ((1, 0), 1, 36, 0x56), ((0, 16), 1, 96, 0x56)],
)
def test_a_weight_stands_in_its_byte(place, value, byte, code):
    stream = one(*place, value)
    assert len(stream) == 288
    assert stream[byte] == code
    rest = torch.cat([stream[32:byte], stream[byte + 1 :]])
    assert (rest == 0x55).all()
    assert not stream[:32].any()


@pytest.mark.parametrize(("value", "code"), [(0, 0x55), (1, 0xAA), (-1, 0x00)])
def test_equal_weights_are_equal_bytes(value, code):
    stream = packed_weights(Trits(torch.full((16, 64), value, dtype=torch.int8), torch.ones(16, 1), 128))
    assert (stream[32:] == code).all()
    assert stream[:32].view(torch.float16).eq(1).all()


@pytest.mark.parametrize("columns", WIDTHS)
def test_what_is_packed_comes_back(columns):
    for rows in range(1, 41):
        given = quantised_weights(matrix(rows, columns, rows))
        stream = packed_weights(given)
        assert len(stream) == packed_bytes(rows, columns)
        found = unpacked_weights(stream, rows, columns)
        assert found.t.equal(given.t)
        assert found.gamma.equal(given.gamma)
        assert packed_weights(found).equal(stream)


def test_damaged_bytes_are_refused():
    stream = packed_weights(quantised_weights(matrix(20, 192)))
    with pytest.raises(CheckpointError, match="20 x 192"):
        unpacked_weights(stream[:-1], 20, 192)
    stream[40] = 0xFF
    with pytest.raises(CheckpointError, match="code 3"):
        unpacked_weights(stream, 20, 192)
