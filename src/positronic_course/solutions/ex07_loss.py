"""Solutions: loss, and the whole model."""

import numpy as np


def first_loss(W: int) -> float:
    return float(np.log(W))


def log_sum_exp(z: np.ndarray) -> np.ndarray:
    largest = z.max(axis=-1, keepdims=True)
    return np.log(np.exp(z - largest).sum(axis=-1)) + largest[..., 0]


def smoothed_gradient(z: np.ndarray, y: int, smoothing: float) -> np.ndarray:
    # loss = log sum exp z - sum_w q_w z_w, as the q sum to 1; so dz = p - q.
    p = np.exp(z - z.max())
    p /= p.sum()
    q = np.full_like(z, smoothing / len(z))
    q[y] += 1 - smoothing
    return p - q
