"""Solutions: linear maps and norms."""

import numpy as np


def bias_gradient(dy: np.ndarray) -> np.ndarray:
    return dy.sum(axis=(0, 1))


def weight_gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])


def unit_gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    # dy_i/dx_j = ([i = j] - y_i y_j) / |x|: the part of dy along y is taken out.
    length = np.sqrt((x * x).sum(axis=1, keepdims=True))
    y = x / length
    return (dy - y * (dy * y).sum(axis=1, keepdims=True)) / length
