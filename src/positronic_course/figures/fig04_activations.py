"""Three activations and their slopes."""

import numpy as np

from positronic_course.ch04_activations import ACTIVATIONS
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: ReLU has a corner, GELU and swish bend smoothly and dip below 0 first. Right: their slopes; those of the
    smooth ones rise above 1 before they settle there."""
    x = np.linspace(-4, 4, 65)
    drawing = Drawing(2)
    values = drawing.panel(0, "f(x)", (-4, 4), (-1, 4), x="x", y="y")
    slopes = drawing.panel(1, "f'(x)", (-4, 4), (-0.2, 1.2), x="x", y="slope")
    for colour, (f, f_backward) in enumerate(ACTIVATIONS.values()):
        y, saved = f(x)
        values.line(x, y, colour)
        slopes.line(x, f_backward(np.ones_like(x), saved), colour)
    for panel in (values, slopes):
        panel.n_labels = 8
        for colour, name in enumerate(ACTIVATIONS):
            panel.label(name, colour)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
