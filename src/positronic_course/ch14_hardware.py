"""Towards hardware: what a number costs, and how few bits do.

So far a weight was "a number". A machine has no numbers, it has bits, and a rule for reading them. This chapter counts
what one linear map y = x @ w costs, then makes the weights four and twenty times smaller with integers.

    x (T, D_in)   w (D_in, D_out)   y (T, D_out)        T tokens; D_in, D_out widths of the stream on both sides of w

Floating point (IEEE 754)
-------------------------
A float32 is a sign bit, an exponent (8 bits) and a fraction (23 bits), and stands for +-1.fraction * 2^(exponent -
127). From 1.2e-38 to 3.4e38 every number has a float32 within 2^-24 of it, relatively; below, precision fades to
nothing (*subnormal* numbers), above is infinity. float16 has 5 and 10 bits: its largest number is 65504, so exp(12)
already is infinite, which is one reason why softmax subtracts the largest score first. bfloat16 has 8 and 7 bits:
float32's range, two or three digits.

*Accumulation order.* Every addition rounds: what comes out is a + b but for 2^-24 of it at most. Add n numbers one
after the other and the first of them has been through n - 1 roundings: the error grows like n 2^-24 in the worst case.
Add halves to halves, as a tree, and each has been through log2 n. Float addition is not associative, so a sum over
eight lanes or threads gives other last bits than a sum over one; neither is wrong, but only one order gives the same
bits twice.

*Fused multiply-add.* A dot product is many a * b + c. Hardware has one instruction for it that rounds once at the end
and not also after the product: more exact, and one step in place of two. It is the reason why the same source may give
different last bits on two machines, and why a * b - b * a can come out as something other than zero.

Fixed point
-----------
An integer m that stands for m * 2^-point, point agreed on beforehand. Adding is integer addition, which is exact and
therefore associative: every order gives the same bits. The product of two stands for m1 m2 2^(-2 point), so it is
shifted right by point. What is out of range must *saturate*; if it wraps, the largest value becomes the smallest.

*By numbers*, with point = 8: 1.5 is 384 and -2.25 is -576. Their product, -221,184, shifted right by 8 is -864, which
stands for -3.375.

Eight bits
----------
Fixed point whose unit is not a power of two and is chosen for each row: x is about scale m, m whole numbers in
-127..127.

    scale = max |x| / 127      m = round(x / scale)      |x - scale m| <= scale / 2

One scale for each token of x and for each output of w, since neither depends on the place that is summed over:

    y[t, j] = sum_i x[t, i] w[i, j]  is about  scale_x[t] scale_w[j] * sum_i m_x[t, i] m_w[i, j]

*By numbers*: x = (0.5, -1.27, 0.004) has the scale 1.27 / 127 = 0.01 and is m = (50, -127, 0). The last number is lost:
it was smaller than half a unit.

The sum is exact in whole numbers. Each product is at most 127^2, so 32 bits hold any sum of up to 133,144 of them.
NumPy multiplies integer matrices slowly. But float32 is itself exact for whole numbers up to 2^24, in any order: sums
of up to 1,040 products may go through the fast float routine, and be added up as integers afterwards.

Three values
------------
Weights of -1, 0, 1 times one scale (the mean of |w|): a product by them is an addition, a subtraction or nothing. Five
such *trits* have 3^5 = 243 combinations and fit into one byte: 1.6 bits a weight, where log2 3 = 1.585 is the least
possible. A model has to be trained in this form; a matrix that was not loses half of what it says, as you will see.

*By numbers*: w = (0.9, -0.2, -1.3, 0.4) has the mean size 0.7. In units of that it is 1.29, -0.29, -1.86, 0.57, so its
trits are 1, 0, -1, 1.

What is scarce
--------------
y needs about 2 T D_in D_out operations and reads D_in D_out weights. Operations for each byte of weights: T / 2 in
float32. With T = 1, a model that writes one token after the other, that is half an operation, and a processor does many
in the time that one byte takes to come from memory: the arithmetic waits for the weights, and four times fewer bytes
are nearly four times the speed. The same holds for energy: fetching a float32 from memory costs as much as 170
multiplications of it.

Source: Goldberg 1991, "What every computer scientist should know about floating-point arithmetic"; Horowitz 2014,
"Computing's energy problem"; Ma et al. 2024, "The era of 1-bit LLMs", for the mean as the scale.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from positronic_course import CourseError


def fields(value: float) -> tuple[int, int, int]:
    """Sign, exponent and fraction of a float32: the three whole numbers that its 32 bits are."""
    bits = int(np.float32(value).view(np.uint32))
    return bits >> 31, bits >> 23 & 0xFF, bits & 0x7FFFFF


def add_in_order(values: np.ndarray) -> np.floating:
    """The sum of values (n,), one after the other, rounded to their dtype each time."""
    return np.add.accumulate(values)[-1]


def add_as_tree(values: np.ndarray) -> np.floating:
    """The sum of values (n,): neighbours first, then sums of neighbours."""
    while len(values) > 1:
        even = len(values) // 2 * 2
        values = np.concatenate([values[0:even:2] + values[1:even:2], values[even:]])
    return values[0]


def fused_multiply_add(a: float, b: float, c: float) -> float:
    """a * b + c in float64 with one rounding: worked out exactly as a fraction, then rounded."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def to_fixed(x: np.ndarray, point: int, bits: int = 16) -> np.ndarray:
    """Whole numbers that stand for x in units of 2^-point; what does not fit into `bits` saturates."""
    largest = 2 ** (bits - 1) - 1
    return np.clip(np.rint(x * 2.0**point), -largest - 1, largest).astype(np.int64)


def from_fixed(m: np.ndarray, point: int) -> np.ndarray:
    return m * 2.0**-point


def multiply_fixed(a: np.ndarray, b: np.ndarray, point: int) -> np.ndarray:
    """The product in the same units: half a unit added, so that the shift rounds to the nearest."""
    return (a * b + (1 << point >> 1)) >> point


def quantise(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """m int8 like x, and one scale for everything along `axis` (kept, of size 1), in the dtype of x."""
    largest = np.abs(x).max(axis, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(x.dtype) / 127
    return np.rint(x / scale).astype(np.int8), scale


def integer_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The definition: int8 (T, D_in) @ int8 (D_in, D_out) -> int32, every product and sum in whole numbers."""
    return a.astype(np.int32) @ b.astype(np.int32)


EXACT = 2**24 // 127**2
"""So many products of two int8 may be summed in float32, in any order, without one rounding."""


def integer_product_by_floats(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same bits as `integer_product` by float32 matrix products over at most EXACT places each."""
    total = np.zeros((len(a), b.shape[1]), np.int32)
    for first in range(0, len(b), EXACT):
        part = a[:, first : first + EXACT].astype(np.float32) @ b[first : first + EXACT].astype(np.float32)
        total += part.astype(np.int32)
    return total


def int8_linear(x: np.ndarray, m: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x (T, D_in) by weights m (D_in, D_out) with a scale (1, D_out) -> y (T, D_out): x is quantised token by token."""
    m_x, scale_x = quantise(x, axis=1)
    return integer_product_by_floats(m_x, m).astype(x.dtype) * (scale_x * scale)


def ternarise(w: np.ndarray) -> tuple[np.ndarray, np.floating]:
    """Trits int8 like w, each -1, 0 or 1, and the one scale of them all: the mean of |w|."""
    scale = np.abs(w).mean()
    return np.clip(np.rint(w / scale), -1, 1).astype(np.int8), scale


POWERS = 3 ** np.arange(5, dtype=np.int64)
TRITS = (np.arange(243)[:, None] // POWERS % 3 - 1).astype(np.int8)
"""The five trits (243, 5) of each byte: its digits to the base of 3, less one."""


def pack(trits: np.ndarray) -> np.ndarray:
    """Trits of any shape -> bytes (n,), five in each; the last one is filled up with zeros."""
    flat = trits.reshape(-1)
    fives = np.concatenate([flat, np.zeros(-len(flat) % 5, flat.dtype)]).reshape(-1, 5)
    return ((fives + 1) @ POWERS).astype(np.uint8)


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The trits again: one look-up a byte."""
    if packed.size and packed.max() >= 243:
        raise CourseError(
            f"A byte of packed trits is {packed.max()}; five trits make 0 to 242. These bytes were not written by "
            f"`pack`, or have changed since: pack the weights again."
        )
    return TRITS[packed].reshape(-1)[: int(np.prod(shape))].reshape(shape)


def ternary_linear(x: np.ndarray, packed: np.ndarray, scale: np.floating, D_out: int) -> np.ndarray:
    """x (T, D_in) by packed trits -> y (T, D_out); sums of int8 with a sign each, hence whole numbers too."""
    m_x, scale_x = quantise(x, axis=1)
    product = integer_product_by_floats(m_x, unpack(packed, (x.shape[1], D_out)))
    return product.astype(x.dtype) * (scale_x * scale)


PICOJOULES = {
    "float32": {"multiply": 3.7, "add": 0.9},
    "int8": {"multiply": 0.2, "add": 0.1},  # the sum is of 32 bits
    "ternary": {"multiply": 0.0, "add": 0.1},
}
PICOJOULES_A_BYTE = 160.0
"""Energy of an operation, and of a byte read from memory outside the chip, on a chip of 2014 (Horowitz, 45 nm)."""


@dataclass(frozen=True)
class Cost:
    """What y = x @ w does to its terms; the scales, one product for each number of y, are not counted."""

    kind: str
    multiplications: int
    additions: int
    weight_bytes: int

    @property
    def operations_a_byte(self) -> float:
        return (self.multiplications + self.additions) / self.weight_bytes

    @property
    def microjoules(self) -> tuple[float, float]:
        """Of the arithmetic, and of fetching the weights."""
        price = PICOJOULES[self.kind]
        arithmetic = self.multiplications * price["multiply"] + self.additions * price["add"]
        return arithmetic / 1e6, self.weight_bytes * PICOJOULES_A_BYTE / 1e6


def cost(kind: str, T: int, D_in: int, D_out: int) -> Cost:
    """Counted: an output is D_in products and D_in - 1 additions. A trit of zero saves its addition: not counted on."""
    if kind not in PICOJOULES:
        raise CourseError(f"The cost of {kind!r} was asked for; counted are {', '.join(PICOJOULES)}. Use one of them.")
    outputs, weights = T * D_out, D_in * D_out
    stored = {"float32": 4 * weights, "int8": weights + 4 * D_out, "ternary": -(-weights // 5) + 4}[kind]
    return Cost(kind, 0 if kind == "ternary" else outputs * D_in, outputs * (D_in - 1), stored)


def off_by(y: np.ndarray, truth: np.ndarray) -> float:
    """Length of the difference over the length of the truth."""
    return float(np.linalg.norm(y - truth) / np.linalg.norm(truth))


if __name__ == "__main__":
    rng = np.random.default_rng(0)

    # A float32 by its bits: 0.1 is not a tenth, the nearest number has this fraction.
    _, exponent, fraction = fields(0.1)
    stored = (1 + fraction / 2**23) * 2.0 ** (exponent - 127)
    print(f"0.1 is stored as {1 + fraction / 2**23:.9f} * 2^{exponent - 127} = {stored:.20f}")

    # The order of a sum. In float32, twenty million and one more is still twenty million.
    values = rng.random(1_000_000, dtype=np.float32)
    exact = values.astype(np.float64).sum()
    in_order, as_tree = add_in_order(values) - exact, add_as_tree(values) - exact
    print(f"a million numbers: off by {in_order:+.3f} in order, {as_tree:+.4f} as a tree")
    a, b = 1 + 2.0**-30, 1 - 2.0**-30
    print(f"a * b - 1: {a * b - 1.0} in two roundings, {fused_multiply_add(a, b, -1.0)} in one")

    # Fixed point: 16 bits, 8 of them behind the point.
    m = to_fixed(np.array([1.5, -2.25, 200.0]), point=8)
    print(f"1.5, -2.25 and 200 in fixed point {m}; 1.5 * -2.25 = {from_fixed(multiply_fixed(m[0], m[1], 8), 8)}")

    # One linear map in three number formats: how far off, how large, how much work.
    T, D_in, D_out = 64, 384, 1536
    x, w = rng.standard_normal((T, D_in), np.float32), rng.standard_normal((D_in, D_out), np.float32)
    trits, mean = ternarise(w)
    results = {
        "float32": x @ w,
        "int8": int8_linear(x, *quantise(w, axis=0)),
        "ternary": ternary_linear(x, pack(trits), mean, D_out),
    }
    for kind, y in results.items():
        one = cost(kind, 1, D_in, D_out)
        print(
            f"{kind:8} error {off_by(y, x @ w):7.4f}   {one.weight_bytes:9,} bytes   one token: "
            f"{one.multiplications:7,} products, {one.additions:7,} sums, {one.operations_a_byte:4.1f} a byte, "
            "{:.2f} + {:.2f} microjoules".format(*one.microjoules)
        )
