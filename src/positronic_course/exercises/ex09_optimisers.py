"""Exercises: Adam, AdamW and the learning rate.

python -m positronic_course.exercises.ex09_optimisers
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run


def first_move(g: np.ndarray, rate: float) -> np.ndarray:
    """By how much does Adam's first step change the weights? (easy)

    g: the first gradient, with no entry 0; epsilon is left out. Put n = 1 into the formulas; much cancels.
    """
    return ...


def check_first_move(answer: Answer) -> None:
    expect("the move for gradients 1000, -0.001, 2", answer(np.array([1000.0, -0.001, 2.0]), 0.1), [-0.1, 0.1, -0.1])


def half_life(beta: float) -> float:
    """After how many steps of mean <- beta mean + (1 - beta) g has a gradient's share in it fallen to one half?"""
    return ...


def check_half_life(answer: Answer) -> None:
    for beta in (0.5, 0.9, 0.999):
        expect(f"beta^half_life for beta = {beta}", beta ** answer(beta), 0.5)


def clipped(gradients: list[np.ndarray], limit: float) -> list[np.ndarray]:
    """All gradients shortened alike, so that their common length is at most the limit."""
    return ...


def check_clipped(answer: Answer) -> None:
    gradients = [np.array([3.0, 0.0]), np.array([[0.0], [4.0]])]  # common length 5
    short = answer(gradients, 1.0)
    expect("the first, from a common length of 5 to 1", short[0], [0.6, 0])
    expect("the second", short[1], [[0], [0.8]])
    for got, given in zip(answer(gradients, 6.0), gradients, strict=True):
        expect("a gradient under the limit", got, given)


def corrected(mean: float, beta: float, n: int) -> float:
    """The true mean of the gradients, from n steps of mean <- beta mean + (1 - beta) g, begun at 0. (a derivation)

    Which weights do the n gradients have in it, and what is their sum? (A geometric series.)
    """
    return ...


def check_corrected(answer: Answer) -> None:
    for beta in (0.0, 0.9, 0.999):
        mean = 0.0
        for n in range(1, 21):
            mean = beta * mean + (1 - beta) * 2.5  # the gradient is always 2.5
            expect(f"the mean after {n} steps with beta = {beta}", answer(mean, beta, n), 2.5)


if __name__ == "__main__":
    run(globals())
