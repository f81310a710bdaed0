"""Solutions: instruction tuning."""

import numpy as np


def answer_weights(n_question: int, n_all: int) -> np.ndarray:
    return (np.arange(1, n_all) >= n_question).astype(float)


def answer_gradient(p: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    share = weights / weights.sum()
    true = np.eye(p.shape[1])[targets]
    return share[:, None] * (p - true)


def mean_of_answers(losses: np.ndarray, weights: np.ndarray) -> float:
    return float(((losses * weights).sum(axis=1) / weights.sum(axis=1)).mean())
