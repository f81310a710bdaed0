"""Exercises: low-rank adapters.

python -m positronic_course.exercises.ex18_low_rank
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope, true


def adapter_size(D_in: int, D_out: int, rank: int) -> int:
    """Numbers of an adapter of this rank beside a matrix (D_in, D_out). (easy)"""
    return ...


def check_adapter_size(answer: Answer) -> None:
    expect("beside (100, 100), of rank 4", answer(100, 100, 4), 800)
    expect("beside (48, 128), of rank 1", answer(48, 128, 1), 176)


def shrink_gradient(x: np.ndarray, dy: np.ndarray, grow: np.ndarray, scale: float) -> np.ndarray:
    """dshrink (D_in, rank) of y = x w + scale (x shrink) grow, from x (n, D_in), dy (n, D_out). (a derivation)

    In an order in which no array of the shape of w is made.
    """
    return ...


def check_shrink_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    x, dy, shrink, grow = (rng.normal(size=size) for size in ((5, 4), (5, 3), (4, 2), (2, 3)))
    measured = slope(lambda shrink: (0.7 * (x @ shrink) @ grow * dy).sum(), shrink)
    expect("dshrink", answer(x, dy, grow, 0.7), measured)


def closest(w: np.ndarray, rank: int) -> np.ndarray:
    """The matrix of at most this rank that is closest to w: what an adapter of that rank could learn at best.

    `np.linalg.svd(w, full_matrices=False)` writes w as a sum of rank-one matrices, the largest first.
    """
    return ...


def check_closest(answer: Answer) -> None:
    expect("of diag(3, 2, 1), rank 2", answer(np.diag([3.0, 2, 1]), 2), np.diag([3.0, 2, 0]))
    w = np.random.default_rng(0).normal(size=(6, 4))
    near = answer(w, 1)
    true(np.linalg.matrix_rank(near) == 1, f"The rank is {np.linalg.matrix_rank(near)}; it should be 1.")
    squares = np.sort(np.linalg.eigvalsh(w.T @ w))  # of the sizes of the parts
    expect("the squares of what is missing", ((w - near) ** 2).sum(), squares[:-1].sum())


if __name__ == "__main__":
    run(globals())
