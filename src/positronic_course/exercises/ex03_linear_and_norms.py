"""Exercises: linear maps and norms.

python -m positronic_course.exercises.ex03_linear_and_norms
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def bias_gradient(dy: np.ndarray) -> np.ndarray:
    """dbias (D_out,) of y = x w + bias, from dy (B, T, D_out): it was added to every token. (easy)"""
    return ...


def check_bias_gradient(answer: Answer) -> None:
    dy = np.random.default_rng(0).normal(size=(2, 3, 4))
    expect("dbias", answer(dy), slope(lambda bias: ((bias + np.zeros((2, 3, 4))) * dy).sum(), np.zeros(4)))


def weight_gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dw (D_in, D_out) of y = x w, from x (B, T, D_in) and dy (B, T, D_out), without a loop: one matrix product."""
    return ...


def check_weight_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    x, w, dy = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5)), rng.normal(size=(2, 3, 5))
    expect("dw", answer(x, dy), slope(lambda w: ((x @ w) * dy).sum(), w))


def unit_gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx (n, D) of y = x / |x|, row by row, |x| the length sqrt(sum x^2) of a row. (a derivation)

    As for RMSNorm, but with a sum in place of the mean. What part of dy can have no influence?
    """
    return ...


def check_unit_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    expect("dx", answer(x, dy), slope(lambda x: (x / np.sqrt((x * x).sum(1, keepdims=True)) * dy).sum(), x))
    expect("dx along x, where y does not change", (answer(x, dy) * x).sum(1), np.zeros(3))


if __name__ == "__main__":
    run(globals())
