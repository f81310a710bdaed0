"""Solutions: preference."""

import numpy as np


def chance_chosen(reward: float, other: float) -> float:
    return float(1 / (1 + np.exp(other - reward)))


def margin_gradient(margin: np.ndarray) -> np.ndarray:
    # -exp(-margin) / (1 + exp(-margin)), both sides times exp(margin)
    return -1 / (1 + np.exp(margin)) / len(margin)


def sequence_gradient(p: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    true = np.eye(p.shape[1])[targets]
    return weights[:, None] * (true - p)
