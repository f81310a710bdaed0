"""A causal softmax, and why scores are divided by sqrt(K)."""

import numpy as np

from positronic_course.ch05_attention import attention, softmax
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: the weights of one head, readers down and what they read across; nobody reads the future, and each row sums
    to 1. Right: the largest of 64 weights when queries and keys are random. Without the division one token takes all as
    soon as heads are wide."""
    drawing = Drawing(2)
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 1, 1, 8, 16))
    p = attention(2 * q, k, v)[1][3][0, 0]
    places = [str(t) for t in range(8)]
    drawing.panel(0, "p[t, s]", (0, 8), (8, 0)).squares(p, places, places)
    widths = 2 ** np.arange(2, 11)
    panel = drawing.panel(
        1, "Largest weight of a row", (2, 10), (0, 1), x="log2 of the width K", y="mean largest weight"
    )
    for colour, (name, power) in enumerate((("q . k / sqrt(K)", -0.5), ("q . k", 0.0))):
        largest = []
        for K in widths:
            a, b = np.random.default_rng(int(K)).normal(size=(2, 64, K))
            largest.append(softmax(a @ b.T * float(K) ** power).max(axis=1).mean())
        panel.line(np.log2(widths), largest, colour, name)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
