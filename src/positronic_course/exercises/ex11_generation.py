"""Exercises: generation.

python -m positronic_course.exercises.ex11_generation
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run


def cache_bytes(n_layers: int, D: int, S: int) -> int:
    """Bytes of keys and values in float32 after S tokens of one row, all heads together as wide as D. (easy)"""
    return ...


def check_cache_bytes(answer: Answer) -> None:
    expect("one layer, D = 1, one token: one key and one value", answer(1, 1, 1), 8)
    expect("4 layers, D = 128, S = 1000", answer(4, 128, 1000), 4_096_000)


def warmed(z: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (W,) of logits z (W,) at a temperature above 0: at 1 softmax, towards 0 the best token alone."""
    return ...


def check_warmed(answer: Answer) -> None:
    z = np.array([1.0, 3.0, 2.0])
    for temperature in (0.5, 1.0, 3.0):
        p = answer(z, temperature)
        expect("the sum", p.sum(), 1)
        expect(f"log(p[1] / p[0]) at {temperature}: 2 / temperature", np.log(p[1] / p[0]), 2 / temperature)
    with np.errstate(over="raise", invalid="raise"):
        expect("at temperature 0.001", answer(z, 0.001), [0, 1, 0])


def min_p(p: np.ndarray, share: float) -> np.ndarray:
    """Keep the tokens of p (W,) that have at least `share` of the largest probability, and make them sum to 1.

    Where the model is sure, few are left; where it is not, many. Which of top-k and top-p does that, too?
    """
    return ...


def check_min_p(answer: Answer) -> None:
    p = np.array([0.25, 0.5, 0.125, 0.125])
    expect("share 1: the likeliest alone", answer(p, 1.0), [0, 1, 0, 0])
    expect("share 0.5: 1/2 and 1/4", answer(p, 0.5), [1 / 3, 2 / 3, 0, 0])
    expect("share 0.1: all", answer(p, 0.1), p)


def draw(z: np.ndarray, u: np.ndarray) -> np.ndarray:
    """One sample of softmax(z), z (W,), for every row of uniform random numbers u (n, W) in 0..1. (a derivation)

    With no softmax, no sum, no loop: add a noise to the logits and take the largest. Which noise? If E = -log u, then
    E is exponentially distributed, and the token with the smallest E_w / exp(z_w) is the first of W clocks to ring: it
    is w with a chance of exp(z_w) / sum of exp(z). Take a logarithm of that.
    """
    return ...


def check_draw(answer: Answer) -> None:
    z, n = np.array([0.0, 1.0, -1.0, 0.5]), 40_000
    counted = np.bincount(answer(z, np.random.default_rng(0).random((n, 4))), minlength=4) / n
    p = np.exp(z) / np.exp(z).sum()
    expect("how often each token was drawn", counted, p, tolerance=0.02)  # four standard deviations


if __name__ == "__main__":
    run(globals())
