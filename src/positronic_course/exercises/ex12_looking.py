"""Exercises: looking at attention.

    python -m positronic_course.exercises.ex12_looking
"""

import numpy as np

from positronic_course.exercises import expect, run, slope


def most_read(p: np.ndarray) -> np.ndarray:
    """For each token (T,), the token that it reads most, from weights p (T, T). (easy)"""
    return ...


def check_most_read(answer):
    expect("most_read", answer(np.array([[1.0, 0, 0], [0.7, 0.3, 0], [0.2, 0.5, 0.3]])), [0, 0, 1])


def entropy(p: np.ndarray) -> np.ndarray:
    """How spread out each row's attention is, in bits: - sum of p log2 p over the last axis, where 0 log 0 is 0."""
    return ...


def check_entropy(answer):
    p = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.125, 0.125]])
    with np.errstate(divide="raise", invalid="raise"):
        expect("the entropies of two heads", answer(np.stack([p, p[::-1]])), [[0, 1, 2, 1.75], [1.75, 2, 1, 0]])


def reach(p: np.ndarray) -> np.ndarray:
    """How many tokens back each head reads, on average over its tokens: p (H, T, T) -> (H,)."""
    return ...


def check_reach(answer):
    T = 5
    itself, previous, even = np.eye(T), np.eye(T, k=-1), np.tri(T) / np.arange(1, T + 1)[:, None]
    previous[0, 0] = 1
    # Itself: 0. The one before: 1 for all but the first. Evenly over t + 1 tokens: t / 2 back, on average (T - 1) / 4.
    expect("of three heads", answer(np.stack([itself, previous, even])), [0, 4 / 5, 1])


def flow(weights: list[np.ndarray]) -> np.ndarray:
    """How much of each token's input arrives in each token's output: (T, T), through all layers. (a derivation)

    Weights: one (T, T) for each layer, the first layer first. Think of a model in which a layer is half stream and half
    attention, x <- (x + p x) / 2 with x (T, 1). What is d(output t) / d(input s)?
    """
    return ...


def check_flow(answer):
    rng = np.random.default_rng(0)
    weights = [np.tril(rng.random((4, 4))) for _ in range(3)]
    weights = [p / p.sum(1, keepdims=True) for p in weights]

    def output(x, t):
        for p in weights:
            x = (x + p @ x) / 2
        return x[t]

    measured = np.stack([slope(lambda x, t=t: output(x, t), np.zeros(4)) for t in range(4)])
    expect("flow", answer(weights), measured)
    expect("the sums of its rows", answer(weights).sum(1), np.ones(4))


if __name__ == "__main__":
    run(globals())
