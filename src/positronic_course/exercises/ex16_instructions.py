"""Exercises: instruction tuning.

python -m positronic_course.exercises.ex16_instructions
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def answer_weights(n_question: int, n_all: int) -> np.ndarray:
    """Weights of the n_all - 1 targets of a row whose first n_question tokens are the question: 1 in the answer. (easy)

    Target t is token t + 1.
    """
    return ...


def check_answer_weights(answer: Answer) -> None:
    expect("3 tokens of question, 2 of answer", answer(3, 5), [0, 0, 1, 1])
    expect("1 of question, 3 of answer", answer(1, 4), [1, 1, 1])
    expect("4 of question, 1 of answer", answer(4, 5), [0, 0, 0, 1])


def answer_gradient(p: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """dz (T, W) of the weighted loss of one row, from p = softmax(z), targets (T,) and weights (T,). (a derivation)"""
    return ...


def check_answer_gradient(answer: Answer) -> None:
    z, targets = np.random.default_rng(0).normal(size=(4, 5)), np.array([2, 0, 4, 4])
    weights = np.array([0.0, 1, 1, 0.5])

    def softmaxed(z):
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    def loss(z):
        return np.average([-np.log(p[j]) for p, j in zip(softmaxed(z), targets, strict=True)], weights=weights)

    expect("dz", answer(softmaxed(z), targets, weights), slope(loss, z))


def mean_of_answers(losses: np.ndarray, weights: np.ndarray) -> float:
    """The mean over answers of each answer's own mean: losses and weights (B, T), a weight of 0 outside the answer."""
    return ...


def check_mean_of_answers(answer: Answer) -> None:
    losses, weights = np.array([[1.0, 2, 9], [4, 9, 9]]), np.array([[1.0, 1, 0], [1, 0, 0]])
    expect("(1 + 2) / 2 and 4", answer(losses, weights), 2.75)
    expect("the same, each row written three times", answer(np.tile(losses, (3, 1)), np.tile(weights, (3, 1))), 2.75)


if __name__ == "__main__":
    run(globals())
