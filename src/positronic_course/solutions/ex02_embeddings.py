"""Solutions: embeddings and positions."""

import numpy as np


def turn(pair: np.ndarray, angle: float) -> np.ndarray:
    a, b = pair
    return np.array([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])


def table_gradient(ids: np.ndarray, dx: np.ndarray, W: int) -> np.ndarray:
    dE = np.zeros((W, dx.shape[-1]), dx.dtype)
    np.add.at(dE, ids, dx)
    return dE


def shift(n: float, frequency: float) -> np.ndarray:
    # sin(a + b) = sin a cos b + cos a sin b; cos(a + b) = cos a cos b - sin a sin b; with a = t w, b = n w.
    cos, sin = np.cos(n * frequency), np.sin(n * frequency)
    return np.array([[cos, sin], [-sin, cos]])
