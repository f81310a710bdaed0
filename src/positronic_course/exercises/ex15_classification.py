"""Exercises: classification.

python -m positronic_course.exercises.ex15_classification
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def share_right(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of texts whose class has the largest logit: logits (n, C), labels (n,). (easy)"""
    return ...


def check_share_right(answer: Answer) -> None:
    logits = np.array([[2.0, 1, 0], [0, 1, 5], [3, 1, 2], [0, 4, 1]])
    expect("three of four right", answer(logits, np.array([0, 2, 0, 2])), 0.75)
    expect("none right", answer(logits, np.array([1, 1, 1, 0])), 0)


def pool_gradient(dpooled: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """dx (B, T, D) of the weighted mean over tokens, from dpooled (B, D) and weights (B, T). (a derivation)"""
    return ...


def check_pool_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    x, dpooled = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4))
    weights = np.array([[1.0, 1, 0], [1, 3, 2]])

    def loss(x):
        means = [np.average(row, axis=0, weights=weight) for row, weight in zip(x, weights, strict=True)]
        return (np.stack(means) * dpooled).sum()

    expect("dx", answer(dpooled, weights), slope(loss, x))


def balancing_weights(labels: np.ndarray, C: int) -> np.ndarray:
    """Weights (n,) that sum to 1 and under which each of C classes counts alike, however often it occurs.

    Else a head learns first of all which class is frequent. Every class occurs at least once in labels (n,).
    """
    return ...


def check_balancing_weights(answer: Answer) -> None:
    expect("for the labels 0, 0, 0, 1", answer(np.array([0, 0, 0, 1]), 2), [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    labels = np.array([2, 0, 1, 2, 2, 0])
    expect("the sum for each of three classes", np.bincount(labels, answer(labels, 3)), [1 / 3, 1 / 3, 1 / 3])


if __name__ == "__main__":
    run(globals())
