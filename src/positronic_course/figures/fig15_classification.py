"""A head alone, and everything."""

import numpy as np

from positronic_course.ch15_classification import accuracy, descend, forwards_and_backwards, label_loss, new_head
from positronic_course.drawing import Drawing
from positronic_course.figures import trained


def figure() -> Drawing:
    """The share of lines that were not seen in training and are told forwards or backwards rightly, every ten steps: by
    a head on the frozen model, and when all of the model is trained. Guessing gives 0.5."""
    trainer = trained()
    config = trainer.config
    ids, labels = forwards_and_backwards(trainer.corpus.training, 24)
    held_out = forwards_and_backwards(trainer.corpus.held_out, 24)
    drawing = Drawing(1, width=420)
    panel = drawing.panel(0, "Forwards or backwards?", (0, 120), (0.4, 1), x="step", y="right, held out")
    panel.line((0, 120), (0.5, 0.5), 4, dashed=True)
    panel.n_labels = 10
    for colour, (name, rate) in enumerate((("the head alone", 3e-2), ("everything", 3e-3))):
        head = new_head(config.d_model, 2)
        parameters = {key: value.copy() for key, value in trainer.parameters.items()} | head

        def batch(step: int, parameters: dict = parameters) -> tuple:
            rows = np.random.default_rng(step).choice(len(labels), 32, replace=False)
            return label_loss(parameters, ids[rows], labels[rows], config)

        right = [accuracy(parameters, *held_out, config)]
        for step, _ in enumerate(descend(head if colour == 0 else parameters, batch, 120, rate), start=1):
            if step % 10 == 0:
                right.append(accuracy(parameters, *held_out, config))
        panel.line(np.arange(13) * 10, right, colour, name)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
