"""Exercises: training, validation, checkpoints.

python -m positronic_course.exercises.ex10_training
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def inputs_and_targets(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids, targets), both (B, T), of rows (B, T + 1) of text: each token shall foresee the next one. (easy)"""
    return ..., ...


def check_inputs_and_targets(answer: Answer) -> None:
    ids, targets = answer(np.array([[10, 11, 12, 13], [20, 21, 22, 23]]))
    expect("ids", ids, [[10, 11, 12], [20, 21, 22]])
    expect("targets", targets, [[11, 12, 13], [21, 22, 23]])


def best_step(losses: list[float], patience: int) -> int:
    """The number of the validation whose weights are kept.

    Training ends after `patience` validations without a new best. Losses after the end are never seen, even if
    they are lower.
    """
    return ...


def check_best_step(answer: Answer) -> None:
    for losses, patience, best in (
        ([3.0, 2.0, 2.5, 2.6, 1.0], 2, 1),  # ends after 2.6
        ([3.0, 2.0, 2.5, 2.6, 1.0], 3, 4),  # waits long enough
        ([3.0, 2.0, 1.0], 1, 2),
        ([1.0, 1.0, 1.0, 0.5], 2, 0),  # equal is no new best
    ):
        expect(f"best_step({losses}, {patience})", answer(losses, patience), best)


def together(gradients: list[np.ndarray], tokens: list[int]) -> np.ndarray:
    """The gradient of one large batch from those of its parts. (a derivation)

    Memory is short, so the batch is sent through in parts; part i holds tokens[i] tokens, and gradients[i] is that of
    its own mean loss a token. Write the mean over all tokens through the means of the parts, then take the gradient.
    """
    return ...


def check_together(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    w, parts = rng.normal(size=3), [rng.normal(size=(n, 3)) for n in (1, 4, 7)]

    def mean_loss(w, x):
        return (np.tanh(x @ w) ** 2).mean()

    gradients = [slope(lambda w, x=x: mean_loss(w, x), w) for x in parts]
    whole = slope(lambda w: mean_loss(w, np.concatenate(parts)), w)
    expect("the gradient of the whole batch", answer(gradients, [1, 4, 7]), whole)


if __name__ == "__main__":
    run(globals())
