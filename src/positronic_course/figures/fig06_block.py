"""A gradient on its way back."""

import numpy as np

from positronic_course.ch03_linear_and_norms import rms_norm, rms_norm_backward
from positronic_course.ch06_block import feed_forward, feed_forward_backward
from positronic_course.drawing import Drawing

D, F, PARTS = 32, 64, 48


def figure() -> Drawing:
    """A gradient goes back through 48 feed-forward parts. Left: its size (a logarithm: -1 is a tenth), right: how much
    of its first direction is left. On the stream both stay; without it the direction is lost within a few parts."""
    drawing = Drawing(2)
    sizes = drawing.panel(0, "Size of the gradient", (0, PARTS), (-3, 3), x="parts passed", y="log10 of the size")
    ways = drawing.panel(1, "Its direction", (0, PARTS), (-0.5, 1), x="parts passed", y="cosine with the first")
    for colour, (name, stream) in enumerate((("with the stream", 1), ("without it", 0))):
        rng = np.random.default_rng(0)
        x, end = rng.normal(size=(2, 1, 8, D))
        kept = []
        for _ in range(PARTS):
            own = {"up": rng.normal(0, D**-0.5, (D, F)), "down": rng.normal(0, F**-0.5, (F, D))}
            normed, saved_norm = rms_norm(x, np.ones(D))
            y, saved_feed = feed_forward(normed, own, "relu")
            x = stream * x + y
            kept.append((saved_norm, saved_feed))
        dx, size, way = end, [0.0], [1.0]
        for saved_norm, saved_feed in reversed(kept):
            dx = stream * dx + rms_norm_backward(feed_forward_backward(dx, saved_feed)[0], saved_norm)[0]
            length = np.linalg.norm(dx)
            size.append(np.log10(length / np.linalg.norm(end)))
            way.append((dx * end).sum() / length / np.linalg.norm(end))
        sizes.line(range(PARTS + 1), size, colour, name)
        ways.line(range(PARTS + 1), way, colour, name)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
