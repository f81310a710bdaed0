"""Solutions: Adam, AdamW and the learning rate."""

import numpy as np


def first_move(g: np.ndarray, rate: float) -> np.ndarray:
    # mean^ = g and square^ = g^2, so the step is rate * g / |g|.
    return -rate * np.sign(g)


def half_life(beta: float) -> float:
    return float(np.log(0.5) / np.log(beta))


def clipped(gradients: list[np.ndarray], limit: float) -> list[np.ndarray]:
    length = np.sqrt(sum((g * g).sum() for g in gradients))
    return [g * min(1.0, limit / length) for g in gradients]


def corrected(mean: float, beta: float, n: int) -> float:
    # (1 - beta) (1 + beta + ... + beta^(n-1)) = 1 - beta^n
    return mean / (1 - beta**n)
