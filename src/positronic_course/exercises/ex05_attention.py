"""Exercises: attention.

python -m positronic_course.exercises.ex05_attention
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope, true


def scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """z (T, S) of queries q (T, K) and keys k (S, K): dot products over sqrt(K). (easy)"""
    return ...


def check_scores(answer: Answer) -> None:
    q, k = np.array([[1.0, 1, 1, 1], [0, 0, 2, 0]]), np.array([[1.0, 2, 3, 4]])
    expect("z", answer(q, k), [[5], [3]])  # (1 + 2 + 3 + 4) / 2 and 2 * 3 / 2
    q, k = np.random.default_rng(0).normal(size=(2, 400, 256))
    expect("the standard deviation of random scores", answer(q, k).std(), 1, tolerance=0.05)


def causal_weights(z: np.ndarray) -> np.ndarray:
    """p (T, T) from scores z (T, T): softmax of each row over the tokens up to its own, 0 for those after it."""
    return ...


def check_causal_weights(answer: Answer) -> None:
    expect("p of equal scores", answer(np.zeros((3, 3))), [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    z = np.random.default_rng(0).normal(size=(4, 4))
    p = answer(z)
    expect("the sums of the rows", p.sum(1), np.ones(4))
    expect(
        "log(p[3, 2] / p[3, 0]), which is the difference of the scores", np.log(p[3, 2] / p[3, 0]), z[3, 2] - z[3, 0]
    )
    expect("p of scores that are 10000 larger", answer(z + 10_000), p)
    z[0, 3] = 50
    true(np.array_equal(answer(z), p), "Row 0 changed with its score for token 3, which is in its future.")


def softmax_gradient(p: np.ndarray, dp: np.ndarray) -> np.ndarray:
    """dz (n, S) from the weights p (n, S) that softmax gave and dp (n, S), with no loop over rows. (a derivation)"""
    return ...


def check_softmax_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    z, dp = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))

    def plain(z):
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    dz = answer(plain(z), dp)
    expect("dz", dz, slope(lambda z: (plain(z) * dp).sum(), z))
    expect("the sums of dz, since softmax does not feel a constant", dz.sum(1), np.zeros(3))


def temperature_gradient(z: np.ndarray, tau: float, p: np.ndarray, dp: np.ndarray) -> float:
    """dL/dtau for p = softmax(z / tau), all (n, S): how the loss moves with the temperature. (a derivation)

    Go through y = z / tau: dL/dy you have, and every y depends on tau.
    """
    return ...


def check_temperature_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    z, dp, tau = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), 1.7

    def plain(tau):
        return np.exp(z / tau) / np.exp(z / tau).sum(1, keepdims=True)

    expect("dL/dtau", answer(z, tau, plain(tau), dp), slope(lambda tau: float((plain(tau) * dp).sum()), np.array(tau)))


if __name__ == "__main__":
    run(globals())
