"""What a norm does to vectors, and what adding up does to digits."""

import numpy as np

from positronic_course.ch03_linear_and_norms import rms_norm
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: vectors of two numbers before RMSNorm, and after it: all on one circle of radius sqrt(2), each in its own
    direction. Right: how far a sum of n tenths in float32 is off, relative to the sum, added one by one and in pairs
    (a logarithm: -2 is one percent)."""
    x = np.random.default_rng(0).normal(size=(24, 2)) * np.array([1.5, 0.7])
    drawing = Drawing(2)
    plane = drawing.panel(0, "RMSNorm", (-3.2, 3.2), (-2.1, 2.1), x="first column", y="second column")
    plane.points(*x.T, 4, "before")
    plane.points(*rms_norm(x, np.ones(2))[0].T, 0, "after")
    sizes = 4 ** np.arange(4, 12)
    error = drawing.panel(1, "Error of a sum", (2, 7), (-9, 0), x="log10 of n", y="log10 of the error")
    for colour, (name, add) in enumerate((("one by one", lambda t: np.cumsum(t)[-1]), ("in pairs", np.sum))):
        tenth = float(np.float32(0.1))
        off = [abs(float(add(np.full(n, 0.1, np.float32))) / (n * tenth) - 1) for n in sizes]
        error.line(np.log10(sizes), np.log10(np.maximum(off, 1e-9)), 1 - colour, name)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
