"""Exercises: the block and the residual stream.

python -m positronic_course.exercises.ex06_block
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def count(D: int, F: int) -> int:
    """How many parameters has a block with RMSNorm and a gated feed-forward half? (easy)

    Four matrices of attention, three of the feed-forward half, two gains; no biases.
    """
    return ...


def check_count(answer: Answer) -> None:
    expect("count(1, 1): nine single numbers", answer(1, 1), 9)
    expect("count(2, 3): four of 4, three of 6 and two of 2", answer(2, 3), 38)


def gate_gradients(gate: np.ndarray, up: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dgate, dup) of y = sigmoid(gate) * up, number by number."""
    return ..., ...


def check_gate_gradients(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    gate, up, dy = rng.normal(size=(3, 2, 4))
    dgate, dup = answer(gate, up, dy)
    expect("dgate", dgate, slope(lambda gate: (up / (1 + np.exp(-gate)) * dy).sum(), gate))
    expect("dup", dup, slope(lambda up: (up / (1 + np.exp(-gate)) * dy).sum(), up))


def stream_gradient(w: np.ndarray, n_layers: int, dy: np.ndarray) -> np.ndarray:
    """dx of a stream x (T, D) through n layers that are as simple as can be, x <- x + x w. (a derivation)

    w (D, D) is the same in every layer, dy (T, D) the gradient after the last one. Each layer hands back what it was
    given, and what comes back through its branch.
    """
    return ...


def check_stream_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    x, dy, w = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), 0.3 * rng.normal(size=(3, 3))

    def after(x, n_layers):
        for _ in range(n_layers):
            x = x + x @ w
        return (x * dy).sum()

    for n_layers in (0, 1, 4):
        expect(f"dx of {n_layers} layers", answer(w, n_layers, dy), slope(lambda x, n=n_layers: after(x, n), x))


if __name__ == "__main__":
    run(globals())
