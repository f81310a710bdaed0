"""Solutions: training, validation, checkpoints."""

import numpy as np


def inputs_and_targets(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[:, :-1], rows[:, 1:]


def best_step(losses: list[float], patience: int) -> int:
    best = 0
    for number, loss in enumerate(losses):
        if loss < losses[best]:
            best = number
        if number - best == patience:
            break
    return best


def together(gradients: list[np.ndarray], tokens: list[int]) -> np.ndarray:
    # mean over all = sum_i n_i mean_i / sum_i n_i
    return np.average(gradients, axis=0, weights=tokens)
