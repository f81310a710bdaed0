"""A run of a small model."""

import numpy as np

from positronic_course.drawing import Drawing
from positronic_course.figures import trained


def figure() -> Drawing:
    """Six epochs of a model of 40,080 parameters on the stories: the loss of every fourth step, the mean of each epoch,
    and the loss on the text that was held out. It has begun near log W = 5.5, a uniform guess."""
    trainer = trained()
    ends = np.arange(1, len(trainer.history) + 1)
    steps = (np.arange(len(trainer.losses)) + 1) / trainer.steps_an_epoch
    drawing = Drawing(1, width=520)
    panel = drawing.panel(0, "Loss", (0, len(ends)), (1.5, 6), x="epoch", y="nats a token")
    panel.line(steps[::4], trainer.losses[::4], 4, "a step")
    panel.line(ends - 0.5, [told["training"] for told in trainer.history], 0, "training, mean of an epoch")
    panel.line(ends, [told["held_out"] for told in trainer.history], 1, "held out")
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
