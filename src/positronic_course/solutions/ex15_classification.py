"""Solutions: classification."""

import numpy as np


def share_right(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def pool_gradient(dpooled: np.ndarray, weights: np.ndarray) -> np.ndarray:
    share = weights / weights.sum(axis=1, keepdims=True)
    return share[:, :, None] * dpooled[:, None]


def balancing_weights(labels: np.ndarray, C: int) -> np.ndarray:
    counts = np.bincount(labels, minlength=C)
    return 1 / (C * counts[labels])
