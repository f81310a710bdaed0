"""Exercises: towards hardware.

    python -m positronic_course.exercises.ex14_hardware
"""

import numpy as np

from positronic_course.exercises import expect, run, true


def accumulator_bits(n: int) -> int:
    """Bits of a signed integer that can hold any sum of n products of two numbers from -127 to 127. (easy)

    b bits with a sign hold -2^(b - 1) to 2^(b - 1) - 1.
    """
    return ...


def check_accumulator_bits(answer):
    expect("one product, 16129, below 2^14 and with a sign", answer(1), 15)
    expect("two products, 32258, below 2^15", answer(2), 16)
    expect("133144 products, just below 2^31", answer(133_144), 32)
    expect("133145 products, just above 2^31", answer(133_145), 33)


def quantised(x: np.ndarray) -> tuple[np.ndarray, float]:
    """(q, scale) of x (n,), not all 0: whole numbers of int8 from -127 to 127, as fine as possible, x about scale * q."""
    return ..., ...


def check_quantised(answer):
    x = np.random.default_rng(0).normal(size=1000)
    q, scale = answer(x)
    true(q.dtype == np.int8, f"q has the dtype {q.dtype}; it should be int8.")
    expect("the largest |q|: finer would not fit, coarser would waste", np.abs(q.astype(int)).max(), 127)
    worst = np.abs(x - scale * q).max()
    true(worst <= scale / 2 * (1 + 1e-9), f"x is missed by up to {worst:.5f}; half a unit is {scale / 2:.5f}.")
    expect("the two ends of -3, 0, 3", answer(np.array([-3.0, 0.0, 3.0]))[0], [-127, 0, 127])


def pack_fours(values: np.ndarray) -> np.ndarray:
    """Bytes (n / 2,) that hold n whole numbers from -8 to 7, n even: two each, the first one in the lower four bits.

    In two's complement, -1 is 1111 and -8 is 1000: `value & 15` are its four bits.
    """
    return ...


def check_pack_fours(answer):
    packed = answer(np.array([1, 2, -1, 7, -8, -3]))
    expect("the bytes of 1, 2, -1, 7, -8, -3", packed, [0b0010_0001, 0b0111_1111, 0b1101_1000])
    true(packed.dtype == np.uint8, f"the bytes have the dtype {packed.dtype}; they should be uint8.")


def balance(bytes_a_weight: float, operations_a_second: float, bytes_a_second: float) -> float:
    """How many tokens at once keep arithmetic and memory equally busy? (a derivation)

    Each weight is fetched once and used by every token, for a product and a sum: two operations. With fewer tokens the
    arithmetic waits for the memory, with more the memory for the arithmetic.
    """
    return ...


def check_balance(answer):
    n_weights = 1_000_000
    for size, speed, memory in ((4, 1e11, 2e10), (1, 1e15, 3.35e12), (0.2, 1e11, 5e10)):
        tokens = answer(size, speed, memory)
        arithmetic, fetching = 2 * n_weights * tokens / speed, n_weights * size / memory
        expect("seconds of arithmetic over seconds of fetching", arithmetic / fetching, 1)


if __name__ == "__main__":
    run(globals())
