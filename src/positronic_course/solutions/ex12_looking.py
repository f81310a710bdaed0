"""Solutions: looking at attention."""

import numpy as np


def most_read(p: np.ndarray) -> np.ndarray:
    return p.argmax(axis=1)


def by_distance(p: np.ndarray) -> np.ndarray:
    return np.array([np.diagonal(p, -d).mean() for d in range(len(p))])


def flow(weights: list[np.ndarray]) -> np.ndarray:
    # One layer is the matrix (1 + p) / 2; layers one after the other are their product, the last one on the left.
    through = np.eye(len(weights[0]))
    for p in weights:
        through = (through + p @ through) / 2
    return through
