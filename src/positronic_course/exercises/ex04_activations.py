"""Exercises: activations.

python -m positronic_course.exercises.ex04_activations
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope

AWAY_FROM_THE_BEND = np.array([-3.0, -1.2, -0.1, 0.2, 0.9, 2.5])


def leaky_relu(x: np.ndarray, leak: float) -> np.ndarray:
    """x where it is positive, and x times a small leak where it is negative. (easy)"""
    return ...


def check_leaky_relu(answer: Answer) -> None:
    expect("leaky_relu([-2, 0, 0.5, 3], 0.1)", answer(np.array([-2.0, 0.0, 0.5, 3.0]), 0.1), [-0.2, 0, 0.5, 3])


def squared_relu_gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx of y = max(x, 0)^2, number by number."""
    return ...


def check_squared_relu_gradient(answer: Answer) -> None:
    x, dy = AWAY_FROM_THE_BEND, np.array([1.0, -2.0, 0.5, 3.0, -1.0, 2.0])
    expect("dx", answer(x, dy), slope(lambda x: (np.maximum(x, 0) ** 2 * dy).sum(), x))


def softplus_slope(x: np.ndarray) -> np.ndarray:
    """The derivative of log(1 + exp(x)). (a derivation)

    You will meet a function of the chapter. It must not overflow: at 1000 the slope is 1 and at -1000 it is 0, without
    a warning from NumPy.
    """
    return ...


def check_softplus_slope(answer: Answer) -> None:
    x = AWAY_FROM_THE_BEND
    expect("the slope", answer(x), slope(lambda x: np.log1p(np.exp(x)).sum(), x))
    with np.errstate(over="raise", invalid="raise"):
        expect("the slope at -1000 and 1000", answer(np.array([-1000.0, 1000.0])), [0, 1])


if __name__ == "__main__":
    run(globals())
