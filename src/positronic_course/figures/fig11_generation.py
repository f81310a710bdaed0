"""What temperature, top-k and top-p leave of five probabilities."""

import numpy as np

from positronic_course.ch11_generation import kept
from positronic_course.drawing import Drawing

CHOICES = (
    ("temperature 1", 1.0, 0, 1.0),
    ("temperature 0.5", 0.5, 0, 1.0),
    ("temperature 2", 2.0, 0, 1.0),
    ("top-p 0.8", 1.0, 0, 0.8),
)


def figure() -> Drawing:
    """Five tokens of probability 0.5, 0.2, 0.15, 0.1 and 0.05, and what the model draws from instead: a low temperature
    sharpens, a high one flattens, top-p cuts the tail off and gives its share to the others."""
    z = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05]))
    drawing = Drawing(len(CHOICES), width=200, height=200)
    for number, (name, temperature, top_k, top_p) in enumerate(CHOICES):
        order, p = kept(z, temperature, top_k, top_p)
        shares = np.zeros(5)
        shares[order] = p
        panel = drawing.panel(number, name, (0, 5), (0, 0.8), y="probability")
        panel.bars(shares, list("abcde"))
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
