"""Points spread evenly over a box, the same on every machine: Halton's sequences.

h_b(n) = sum_k n_k b^-k-1        n_k the digits of n in base b; coordinates take bases without common divisor

Source   van der Corput 1935; Halton 1960, "On the efficiency of certain quasi-random sequences of points".
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["halton", "van_der_corput"]


def van_der_corput(index: np.ndarray, base: int) -> tuple[np.ndarray, int]:
    """The digits of each index in reverse behind the point: numerators (n,) and their one denominator."""
    numerator, denominator = np.zeros_like(index), 1
    while index.any():
        index, digit = np.divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator, denominator


def halton(index: np.ndarray, bases: Sequence[int] = (2, 3, 5)) -> np.ndarray:
    """Points (n, len(bases)) float64 in [0, 1) at these indices (n,), the first of which is usually 1."""
    coordinates = (van_der_corput(np.asarray(index, np.int64), base) for base in bases)
    return np.stack([numerator / denominator for numerator, denominator in coordinates], -1)
