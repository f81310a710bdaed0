"""Exercises: towards hardware.

python -m positronic_course.exercises.ex14_hardware
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, true


def accumulator_bits(n: int) -> int:
    """Bits of a signed integer that can hold any sum of n products of two numbers from -127 to 127. (easy)

    n bits with a sign hold -2^(n - 1) to 2^(n - 1) - 1.
    """
    return ...


def check_accumulator_bits(answer: Answer) -> None:
    expect("one product, 16129, below 2^14 and with a sign", answer(1), 15)
    expect("two products, 32258, below 2^15", answer(2), 16)
    expect("133144 products, just below 2^31", answer(133_144), 32)
    expect("133145 products, just above 2^31", answer(133_145), 33)


def with_zero_point(low: float, high: float) -> tuple[float, int]:
    """(scale, zero) so that the bytes m = 0 .. 255 stand for scale * (m - zero), from about low <= 0 to high >= 0.

    After a ReLU no number is negative, and half of -127 .. 127 would be wasted. The zero must be a whole number itself:
    then the number 0 is exact, as padding and ReLU need it, and the ends are missed by half a unit at most.
    """
    return ..., ...


def check_with_zero_point(answer: Answer) -> None:
    for low, high in ((0.0, 5.1), (-1.0, 1.553), (-2.55, 0.0)):
        scale, zero = answer(low, high)
        true(zero == round(zero), f"The zero for {low} to {high} is {zero}; it should be a whole number.")
        expect(f"255 units for {low} to {high}", 255 * scale, high - low)
        worst = max(abs(scale * (0 - zero) - low), abs(scale * (255 - zero) - high))
        true(
            worst <= scale / 2 * 1.001,
            f"An end of {low} to {high} is missed by {worst:.4f}, more than half of {scale:.4f}.",
        )
    expect("scale and zero for -1 to 1.55", answer(-1.0, 1.55), [0.01, 100])


def pack_fours(values: np.ndarray) -> np.ndarray:
    """Bytes (n / 2,) that hold n whole numbers from -8 to 7, n even: two each, the first one in the lower four bits.

    In two's complement, -1 is 1111 and -8 is 1000: `value & 15` are its four bits.
    """
    return ...


def check_pack_fours(answer: Answer) -> None:
    packed = answer(np.array([1, 2, -1, 7, -8, -3]))
    expect("the bytes of 1, 2, -1, 7, -8, -3", packed, [0b0010_0001, 0b0111_1111, 0b1101_1000])
    true(packed.dtype == np.uint8, f"the bytes have the dtype {packed.dtype}; they should be uint8.")


def balance(bytes_a_weight: float, operations_a_second: float, bytes_a_second: float) -> float:
    """How many tokens at once keep arithmetic and memory equally busy? (a derivation)

    Each weight is fetched once and used by every token, for a product and a sum: two operations. With fewer tokens the
    arithmetic waits for the memory, with more the memory for the arithmetic.
    """
    return ...


def check_balance(answer: Answer) -> None:
    n_weights = 1_000_000
    for size, speed, memory in ((4, 1e11, 2e10), (1, 1e15, 3.35e12), (0.2, 1e11, 5e10)):
        tokens = answer(size, speed, memory)
        arithmetic, fetching = 2 * n_weights * tokens / speed, n_weights * size / memory
        expect("seconds of arithmetic over seconds of fetching", arithmetic / fetching, 1)


if __name__ == "__main__":
    run(globals())
