"""Solutions: Adam, AdamW and the learning rate."""

import numpy as np


def first_move(g: np.ndarray, rate: float) -> np.ndarray:
    # m^ = g and v^ = g^2, so the step is rate * g / |g|.
    return -rate * np.sign(g)


def half_life(beta: float) -> float:
    return float(np.log(0.5) / np.log(beta))


def clipped(gradients: list[np.ndarray], limit: float) -> list[np.ndarray]:
    length = np.sqrt(sum((g * g).sum() for g in gradients))
    return [g * min(1.0, limit / length) for g in gradients]


def corrected(m: float, beta: float, t: int) -> float:
    # (1 - beta) (1 + beta + ... + beta^(t-1)) = 1 - beta^t
    return m / (1 - beta**t)
