"""Exercises: embeddings and positions.

python -m positronic_course.exercises.ex02_embeddings
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def turn(pair: np.ndarray, angle: float) -> np.ndarray:
    """The vector pair (2,) turned counter-clockwise by the angle, in radians. (easy)"""
    return ...


def check_turn(answer: Answer) -> None:
    expect("a quarter turn of (1, 0)", answer(np.array([1.0, 0.0]), np.pi / 2), [0, 1])
    expect("a quarter turn of (0, 1)", answer(np.array([0.0, 1.0]), np.pi / 2), [-1, 0])
    pair = np.array([0.8, -1.7])
    expect("the length after a turn by 1", np.hypot(*answer(pair, 1.0)), np.hypot(*pair))
    expect("a turn by 0.3 and then by 0.4, against one by 0.7", answer(answer(pair, 0.3), 0.4), answer(pair, 0.7))


def table_gradient(ids: np.ndarray, dx: np.ndarray, W: int) -> np.ndarray:
    """dL/dE (W, D) of the lookup x = E[ids]: ids (B, T), dx (B, T, D). An id that occurs twice gets both gradients.

    `dE[ids] += dx` forgets one of them: NumPy writes each row once. Look for a function that does not, or sort.
    """
    return ...


def check_table_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    ids, dx, table = np.array([[2, 0, 2], [2, 3, 0]]), rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 4))
    expect("dE", answer(ids, dx, 5), slope(lambda E: (E[ids] * dx).sum(), table))


def shift(n: float, frequency: float) -> np.ndarray:
    """The matrix w (2, 2) that moves a sinusoidal position by n tokens, wherever it stands. (a derivation)

    For every t:    [sin((t + n) frequency), cos((t + n) frequency)] = w [sin(t frequency), cos(t frequency)]
    So a linear map can look n tokens back: that is why sines make good positions. Use the sine and cosine of a sum.
    """
    return ...


def check_shift(answer: Answer) -> None:
    for n, frequency in ((1, 0.5), (7, 0.01), (-3, 1.3)):
        for t in (0.0, 2.0, 31.0):
            here, there = (np.array([np.sin(at * frequency), np.cos(at * frequency)]) for at in (t, t + n))
            expect(f"w @ position({t:g}) for n = {n}, frequency {frequency}", answer(n, frequency) @ here, there)


if __name__ == "__main__":
    run(globals())
