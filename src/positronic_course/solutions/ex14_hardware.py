"""Solutions: towards hardware."""

import numpy as np


def accumulator_bits(n: int) -> int:
    return (n * 127 * 127).bit_length() + 1


def with_zero_point(low: float, high: float) -> tuple[float, int]:
    scale = (high - low) / 255
    return scale, round(-low / scale)


def pack_fours(values: np.ndarray) -> np.ndarray:
    four = values & 15
    return (four[0::2] | four[1::2] << 4).astype(np.uint8)


def balance(bytes_a_weight: float, operations_a_second: float, bytes_a_second: float) -> float:
    # 2 T / speed = size / memory, the number of weights falls out.
    return bytes_a_weight * operations_a_second / bytes_a_second / 2
