"""Exercises: initialisation.

python -m positronic_course.exercises.ex08_initialisation
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run


def keeping_scale(D_in: int) -> float:
    """The standard deviation of w (D_in, D_out) with which y = x w varies as much as x does. (easy)"""
    return ...


def check_keeping_scale(answer: Answer) -> None:
    expect("keeping_scale(1): one term", answer(1), 1)
    rng = np.random.default_rng(0)
    for D_in in (64, 400):
        x, w = rng.normal(size=(2000, D_in)), answer(D_in) * rng.normal(size=(D_in, 500))
        expect(f"the variance of y for D_in = {D_in}", (x @ w).var(), 1, tolerance=0.03)


def relu_scale(D_in: int) -> float:
    """The same when x came out of a ReLU: keep the mean of the squares from one layer to the next. (a derivation)

        y = max(x w, 0)        mean of y^2 = mean of x^2

    x w is symmetric around 0, so ReLU throws away half of it. Half of what?
    """
    return ...


def check_relu_scale(answer: Answer) -> None:
    expect("relu_scale(2): of two terms one is lost", answer(2), 1)
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(2000, 300)), 0)
    before = (x * x).mean()
    for _ in range(10):
        x = np.maximum(x @ (answer(300) * rng.normal(size=(300, 300))), 0)
    expect("the mean square after ten layers over that before", (x * x).mean() / before, 1, tolerance=0.2)


def branch_scale(n_layers: int) -> float:
    """Two branches a layer write numbers of variance 1 into a stream. Which factor on each keeps the sum at 1, too?"""
    return ...


def check_branch_scale(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    for n_layers in (1, 8, 50):
        stream = (answer(n_layers) * rng.normal(size=(2 * n_layers, 20_000))).sum(0)
        expect(f"the variance of the stream after {n_layers} layers", stream.var(), 1, tolerance=0.04)
    expect("branch_scale(8): sixteen branches", answer(8), 1 / 4)


if __name__ == "__main__":
    run(globals())
