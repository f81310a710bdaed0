"""Exercises: preference.

python -m positronic_course.exercises.ex17_preference
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def chance_chosen(reward: float, other: float) -> float:
    """The chance that an answer of this reward is chosen over one of the other reward (Bradley, Terry). (easy)"""
    return ...


def check_chance_chosen(answer: Answer) -> None:
    expect("of two alike", answer(3.0, 3.0), 0.5)
    expect("of one that is log 3 better", answer(np.log(3), 0.0), 0.75)
    expect("of one that is log 3 worse", answer(0.0, np.log(3)), 0.25)
    expect("of (2, 0.5) and (0.5, 2) together", answer(2.0, 0.5) + answer(0.5, 2.0), 1)


def margin_gradient(margin: np.ndarray) -> np.ndarray:
    """dL/dmargin (n,) of L, the mean of log(1 + exp(-margin)), margin (n,). (a derivation)"""
    return ...


def check_margin_gradient(answer: Answer) -> None:
    margin = np.array([-2.0, 0, 0.5, 3])
    expect("dmargin", answer(margin), slope(lambda margin: np.log(1 + np.exp(-margin)).mean(), margin))
    expect("dmargin of a model that has not moved", answer(np.zeros(2)), [-0.25, -0.25])


def sequence_gradient(p: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """dz (T, W) of log p of one answer: p = softmax(z), targets (T,), weights (T,), not divided by anything.

    Where does the likeliest token go when an answer is made likelier?
    """
    return ...


def check_sequence_gradient(answer: Answer) -> None:
    z, targets, weights = np.random.default_rng(0).normal(size=(3, 4)), np.array([1, 3, 3]), np.array([0.0, 1, 2])

    def softmaxed(z):
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    def log_p(z):
        return sum(w * np.log(p[j]) for p, j, w in zip(softmaxed(z), targets, weights, strict=True))

    expect("dz", answer(softmaxed(z), targets, weights), slope(log_p, z))


if __name__ == "__main__":
    run(globals())
