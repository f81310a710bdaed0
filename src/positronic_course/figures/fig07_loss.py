"""What a wrong guess costs, and how it pulls at the logits."""

import numpy as np

from positronic_course.ch07_loss import cross_entropy, cross_entropy_backward
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: the loss of a token by the probability it was given; it falls to 0 where the model was sure and right.
    Right: the gradient of the logits (2, 1, 0) when the second token came: what was said minus what was true. Only the
    token that came is lifted, and all others pay."""
    drawing = Drawing(2)
    p = np.linspace(0.01, 1, 60)
    losses = [float(cross_entropy(np.log([[[a, 1 - a + 1e-12]]]), np.zeros((1, 1), int))[0]) for a in p]
    curve = drawing.panel(0, "Loss of one token", (0, 1), (0, 5), x="probability of the token that came", y="nats")
    curve.line(p, losses)
    _, saved = cross_entropy(np.array([[[2.0, 1.0, 0.0]]]), np.array([[1]]))
    pull = drawing.panel(1, "p - [j = target]", (0, 3), (-1, 1), y="gradient of the logit")
    pull.bars(cross_entropy_backward(saved)[0, 0], ["z = 2", "z = 1, came", "z = 0"], [1, 0, 1])
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
