"""Positions as angles."""

import numpy as np

from positronic_course.ch02_embeddings import rotate, rotation, sinusoidal
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: the sinusoidal table, a row a position; the first columns turn fast, the last hardly at all. Right: the dot
    product of one vector with itself, turned by rotary positions: it depends on the distance alone, so the curve begun
    at position 0 and the one begun at position 1000 lie on each other."""
    drawing = Drawing(2)
    table = sinusoidal(0, 24, 32)[:, :16]
    panel = drawing.panel(0, "sin(t base^(-2i/D))", (0, 16), (24, 0), x="column i", y="position t")
    panel.squares((table + 1) / 2)
    n = np.arange(49)
    vector = np.ones((1, 1, 1, 64))
    likeness = drawing.panel(1, "Turned by n places", (0, 48), (-0.2, 1), x="distance n", y="dot product / K")
    for colour, place in enumerate((0, 1000)):
        here = rotate(vector, *rotation(np.array([place]), 64, dtype=np.float64)).ravel()
        there = rotate(np.repeat(vector, 49, axis=2), *rotation(place + n, 64, dtype=np.float64))[0, 0]
        likeness.line(n, there @ here / 64, colour, f"from position {place}", dashed=place > 0)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
