"""Chapter 14: bits, whole numbers, and what they cost."""

import math
import struct
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest

from positronic_course import CourseError
from positronic_course.ch14_hardware import (
    EXACT,
    PICOJOULES,
    add_as_tree,
    add_in_order,
    cost,
    fields,
    from_fixed,
    fused_multiply_add,
    int8_linear,
    integer_product,
    integer_product_by_floats,
    multiply_fixed,
    off_by,
    pack,
    quantise,
    ternarise,
    ternary_linear,
    to_fixed,
    unpack,
)


@pytest.mark.parametrize("value", [1.0, -0.1, 3.4e38, 1.2e-38, 65504.0])
def test_the_fields_of_a_float_give_it_back(value):
    sign, e, f = fields(value)
    assert (-1) ** sign * (1 + f / 2**23) * 2.0 ** (e - 127) == struct.unpack("f", struct.pack("f", value))[0]


def test_a_tree_adds_the_same_numbers_with_a_smaller_error():
    values = np.random.default_rng(0).random(100_001, dtype=np.float32)
    exact, u = math.fsum(values.tolist()), 2.0**-24
    in_order, as_tree = (abs(float(add(values)) - exact) / exact for add in (add_in_order, add_as_tree))
    assert as_tree <= 17 * u  # 17 levels over 100,001 positive numbers, a rounding each
    assert in_order > 10 * as_tree, (in_order, as_tree)


def test_addition_is_not_associative_in_floats_and_is_in_fixed_point():
    values = np.array([2.0**24, 1.0, 1.0], np.float32)
    assert add_in_order(values) != add_in_order(values[::-1])
    whole = to_fixed(np.random.default_rng(0).normal(size=1000), point=8)
    assert add_in_order(whole) == add_in_order(whole[::-1]) == add_as_tree(whole)


def test_a_fused_multiply_add_rounds_once():
    a, b = 1 + 2.0**-30, 1 - 2.0**-30
    assert a * b - 1.0 == 0.0
    assert fused_multiply_add(a, b, -1.0) == -(2.0**-60)


def test_fixed_point_rounds_to_half_a_unit_and_saturates():
    x = np.random.default_rng(0).uniform(-100, 100, 1000)
    assert np.abs(from_fixed(to_fixed(x, 8), 8) - x).max() <= 2.0**-9
    assert to_fixed(np.array([200.0, -200.0]), 8).tolist() == [2**15 - 1, -(2**15)]
    assert from_fixed(multiply_fixed(to_fixed(np.array(1.5), 8), to_fixed(np.array(-2.25), 8), 8), 8) == -3.375
    assert multiply_fixed(np.array(3), np.array(5), 0) == 15


@pytest.mark.parametrize("axis", [0, 1])
def test_eight_bits_are_within_half_a_unit_of_every_scale(axis):
    x = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    x[2] = 0
    q, scale = quantise(x, axis)
    assert q.dtype == np.int8
    assert scale.dtype == np.float32
    assert (np.abs(x - q * scale.astype(np.float64)) <= scale / 2 * (1 + 1e-6)).all()
    assert np.abs(q).max() == 127


@pytest.mark.parametrize("D_in", [1, EXACT, EXACT + 1, 3 * EXACT + 5])
def test_integer_products_are_exact_by_floats_even_at_the_limits(D_in):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-127, 128, (3, D_in), np.int8), rng.integers(-127, 128, (D_in, 4), np.int8)
    a[0], b[:, 0] = 127, 127
    truth = [[sum(int(i) * int(j) for i, j in zip(row, column, strict=True)) for column in b.T] for row in a]
    assert integer_product(a, b).tolist() == truth
    assert integer_product_by_floats(a, b).tolist() == truth


def test_exact_is_the_largest_sum_that_float32_counts_to():
    assert EXACT * 127**2 < 2**24 < (EXACT + 1) * 127**2
    assert np.float32(2**24) + np.float32(1) == np.float32(2**24)


def test_the_two_errors_of_int8_apart():
    """Packing: the integers against the float weights. Arithmetic: the product against float64 by the same integers."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(16, 1500)).astype(np.float32), rng.normal(size=(1500, 24)).astype(np.float32)
    q, scale = quantise(w, axis=0)
    q_x, scale_x = quantise(x, axis=1)
    y = int8_linear(x, q, scale)
    assert y.dtype == np.float32
    exact = (q_x.astype(np.float64) * scale_x) @ (q.astype(np.float64) * scale)
    assert off_by(y, exact) < 3e-7
    assert off_by(exact, x.astype(np.float64) @ w) < 0.015


def test_trits_are_packed_five_to_a_byte_and_come_back():
    for count in (0, 1, 4, 5, 6, 1001):
        trits = np.random.default_rng(count).integers(-1, 2, count).astype(np.int8)
        packed = pack(trits)
        assert packed.nbytes == -(-count // 5)
        assert unpack(packed, trits.shape).tolist() == trits.tolist()
    assert pack(np.array([1, 0, -1, 0, 0], np.int8)).tolist() == [2 + 1 * 3 + 0 * 9 + 1 * 27 + 1 * 81]


def test_bytes_that_are_no_trits_are_refused():
    with pytest.raises(CourseError, match="is 250; five trits make 0 to 242"):
        unpack(np.array([250], np.uint8), (5,))


def test_ternary_products_are_sums_with_signs():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(5, 33)).astype(np.float32), rng.normal(size=(33, 7)).astype(np.float32)
    trits, scale = ternarise(w)
    assert scale == pytest.approx(np.abs(w).mean())
    assert not trits[np.abs(w) < 0.49 * scale].any()
    q_x, scale_x = quantise(x, axis=1)
    whole = q_x.astype(np.int64)
    sums = np.array(
        [[whole[t][column == 1].sum() - whole[t][column == -1].sum() for column in trits.T] for t in range(5)]
    )
    y = ternary_linear(x, pack(trits), scale, 7)
    assert y.dtype == np.float32
    assert off_by(y, sums * (scale_x.astype(np.float64) * scale)) < 3e-7


def test_a_matrix_that_is_ternary_already_loses_nothing():
    trits = np.random.default_rng(0).integers(-1, 2, (30, 8)).astype(np.int8)
    again, scale = ternarise(trits.astype(np.float32))
    assert again.tolist() == trits.tolist()
    assert 0 < scale <= 1


@dataclass
class Counted:
    """A number that counts what is done to it."""

    value: int
    done: ClassVar[dict[str, int]] = {}

    def __mul__(self, other):
        Counted.done["multiply"] = Counted.done.get("multiply", 0) + 1
        return Counted(self.value * other.value)

    def __add__(self, other):
        Counted.done["add"] = Counted.done.get("add", 0) + 1
        return Counted(self.value + other.value)


@pytest.mark.parametrize(("T", "D_in", "D_out"), [(1, 1, 1), (2, 5, 3), (4, 3, 7)])
def test_operations_are_those_that_a_counting_number_sees(T, D_in, D_out):
    Counted.done.clear()
    counted = np.vectorize(Counted, otypes=[object])
    counted(np.ones((T, D_in))) @ counted(np.ones((D_in, D_out)))
    one = cost("int8", T, D_in, D_out)
    assert (one.multiplications, one.additions) == (Counted.done["multiply"], Counted.done.get("add", 0))


def test_bytes_are_those_of_the_arrays():
    w = np.random.default_rng(0).normal(size=(33, 7)).astype(np.float32)
    q, scale = quantise(w, axis=0)
    trits, mean = ternarise(w)
    assert cost("float32", 1, 33, 7).weight_bytes == w.nbytes
    assert cost("int8", 1, 33, 7).weight_bytes == q.nbytes + scale.nbytes
    assert cost("ternary", 1, 33, 7).weight_bytes == pack(trits).nbytes + mean.nbytes


def test_one_token_is_bound_by_memory_and_the_costs_fall_with_the_bits():
    costs = [cost(kind, 1, 384, 1536) for kind in PICOJOULES]
    assert costs[0].operations_a_byte == pytest.approx(0.5, rel=1e-2)
    for heavy, light in pairwise(costs):
        assert light.weight_bytes < heavy.weight_bytes
        assert sum(light.microjoules) < sum(heavy.microjoules)
    assert astuple(cost("float32", 1, 2, 3)) == ("float32", 6, 3, 24)


def test_an_unknown_format_is_named():
    with pytest.raises(CourseError, match="'int4' was asked for; counted are float32, int8, ternary"):
        cost("int4", 1, 1, 1)
