"""The loss of a margin, and two answers that move apart."""

import numpy as np

from positronic_course.ch15_classification import descend
from positronic_course.ch17_preference import (
    POLITE,
    preference,
    preference_and_gradients,
    two_answers,
    undecided_model,
)
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: the loss by the margin; where the model is right already it is flat and hardly pulls. Right: the mean log p
    of both answers while a small model learns which is liked. Only their difference counts."""
    drawing = Drawing(2)
    margins = np.linspace(-4, 4, 41)
    curve = drawing.panel(0, "log(1 + exp(-margin))", (-4, 4), (0, 4), x="margin", y="loss")
    zero = np.zeros(1)
    curve.line(margins, [float(preference(zero + a, zero, (zero, zero), 1.0)[0]) for a in margins])
    config, parameters, tokenizer = undecided_model()
    rows, reference = two_answers(POLITE, (config, parameters), tokenizer)
    told: list[list[float]] = []

    def one_step(step: int) -> tuple:
        loss, gradients, log_p = preference_and_gradients(parameters, rows, reference, config, beta=0.2)
        told.append([float(part.mean()) for part in np.split(log_p, 2)])
        return loss, gradients

    for _ in descend(parameters, one_step, 40, 1e-3):
        pass
    lowest = min(min(pair) for pair in told)
    panel = drawing.panel(1, "While it learns", (0, 40), (lowest - 1, 0), x="step", y="log p of an answer")
    for colour, name in enumerate(("chosen", "rejected")):
        panel.line(range(40), [pair[colour] for pair in told], colour, name)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
