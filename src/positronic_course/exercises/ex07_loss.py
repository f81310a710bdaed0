"""Exercises: loss, and the whole model.

python -m positronic_course.exercises.ex07_loss
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def first_loss(W: int) -> float:
    """The loss, in nats, of a model that finds all W tokens equally likely. (easy)"""
    return ...


def check_first_loss(answer: Answer) -> None:
    expect("a loss of n nats means exp(n) equally likely tokens; exp(first_loss(300))", np.exp(answer(300)), 300)
    expect("first_loss(1): no choice, no surprise", answer(1), 0)


def log_sum_exp(z: np.ndarray) -> np.ndarray:
    """log(sum of exp(z)) over the last axis, z (..., W), for numbers of any size."""
    return ...


def check_log_sum_exp(answer: Answer) -> None:
    z = np.log(np.array([[1.0, 2.0, 5.0], [0.5, 0.25, 0.25]]))
    expect("of log 1, 2, 5 and log 1/2, 1/4, 1/4", answer(z), [np.log(8), 0])
    with np.errstate(over="raise"):
        expect("of two numbers 1000: 1000 + log 2", answer(np.array([1000.0, 1000.0])), 1000.6931471805599, 1e-12)
    expect("of two numbers -1000", answer(np.array([-1000.0, -1000.0])), -999.3068528194401, 1e-12)


def smoothed_gradient(z: np.ndarray, y: int, smoothing: float) -> np.ndarray:
    """dz (W,) of the loss with smoothed labels, for one token. (a derivation)

    The truth is not all on y: a share, the smoothing, is spread evenly over all W tokens (y among them):

        q_w = (1 - smoothing) [w = y] + smoothing / W        loss = - sum_w q_w log p_w,    p = softmax(z)

    With smoothing 0 you must find the gradient of the chapter again.
    """
    return ...


def check_smoothed_gradient(answer: Answer) -> None:
    z, y = np.array([0.3, -1.0, 2.0, 0.7]), 1

    def loss(z, smoothing):
        log_p = z - np.log(np.exp(z).sum())
        return -(1 - smoothing) * log_p[y] - smoothing * log_p.mean()

    for smoothing in (0.0, 0.1, 1.0):
        measured = slope(lambda z, s=smoothing: loss(z, s), z)
        expect(f"dz with smoothing {smoothing}", answer(z, y, smoothing), measured)
    with np.errstate(over="ignore", invalid="ignore"):
        expect("the same with all logits 1000 larger", answer(z + 1000, y, 1.0), measured)


if __name__ == "__main__":
    run(globals())
