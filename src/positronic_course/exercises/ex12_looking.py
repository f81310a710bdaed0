"""Exercises: looking at attention.

python -m positronic_course.exercises.ex12_looking
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def most_read(p: np.ndarray) -> np.ndarray:
    """For each token (T,), the token that it reads most, from weights p (T, T). (easy)"""
    return ...


def check_most_read(answer: Answer) -> None:
    expect("most_read", answer(np.array([[1.0, 0, 0], [0.7, 0.3, 0], [0.2, 0.5, 0.3]])), [0, 0, 1])


def by_distance(p: np.ndarray) -> np.ndarray:
    """The mean weight (T,) at every distance, from weights p (T, T): at 0 of the token itself, at 1 of the one before.

    The mean at distance n is over the T - n tokens that have a token so far back.
    """
    return ...


def check_by_distance(answer: Answer) -> None:
    p = np.array([[1.0, 0, 0], [0.7, 0.3, 0], [0.2, 0.6, 0.2]])
    # By hand: (1 + 0.3 + 0.2) / 3, (0.7 + 0.6) / 2, 0.2 / 1.
    expect("the means", answer(p), [0.5, 0.65, 0.2])
    even = np.tri(4) / np.arange(1, 5)[:, None]
    expect("the weights of every reader, added up again", (answer(even) * np.arange(4, 0, -1)).sum(), 4)


def flow(weights: list[np.ndarray]) -> np.ndarray:
    """How much of each token's input arrives in each token's output: (T, T), through all layers. (a derivation)

    Weights: one (T, T) for each layer, the first layer first. Think of a model in which a layer is half stream and half
    attention, x <- (x + p x) / 2 with x (T, 1). How does output t move with input s?
    """
    return ...


def check_flow(answer: Answer) -> None:
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
