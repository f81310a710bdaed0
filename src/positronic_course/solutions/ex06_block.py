"""Solutions: the block and the residual stream."""

import numpy as np


def count(D: int, F: int) -> int:
    return 4 * D * D + 3 * D * F + 2 * D


def gate_gradients(gate: np.ndarray, up: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = 1 / (1 + np.exp(-gate))
    return dy * up * s * (1 - s), dy * s


def stream_gradient(w: np.ndarray, n_layers: int, dy: np.ndarray) -> np.ndarray:
    for _ in range(n_layers):
        dy = dy + dy @ w.T
    return dy
