"""Solutions: generation."""

import numpy as np


def cache_bytes(n_layers: int, D: int, S: int) -> int:
    return 2 * 4 * n_layers * D * S


def warmed(z: np.ndarray, temperature: float) -> np.ndarray:
    p = np.exp((z - z.max()) / temperature)
    return p / p.sum()


def min_p(p: np.ndarray, share: float) -> np.ndarray:
    kept = p * (p >= share * p.max())
    return kept / kept.sum()


def draw(z: np.ndarray, u: np.ndarray) -> np.ndarray:
    # smallest E / exp(z) = largest z - log E, E = -log u: Gumbel noise.
    return (z - np.log(-np.log(u))).argmax(axis=1)
