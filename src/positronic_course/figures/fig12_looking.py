"""Where the heads of a small model look."""

import numpy as np

from positronic_course.ch12_looking import attention_of, reach, visible
from positronic_course.drawing import Drawing
from positronic_course.figures import trained


def figure() -> Drawing:
    """The four heads of a model after six epochs on the stories, reading 'the lamp': readers down, what they read
    across, the darkest the largest weight of its row. A head's reach, in tokens, stands above it."""
    trainer = trained()
    text = "the lamp"
    ids = trainer.corpus.tokenizer.encode(text)
    heads = attention_of(trainer.parameters, trainer.config, ids)[0]
    drawing = Drawing(len(heads), width=220, height=220)
    names = visible(list(text))
    for number, (p, back) in enumerate(zip(heads, reach(heads), strict=True)):
        panel = drawing.panel(number, f"head {number}: {back:.1f} back", (0, len(ids)), (len(ids), 0))
        panel.squares(p / np.max(p, axis=1, keepdims=True), names, names)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
