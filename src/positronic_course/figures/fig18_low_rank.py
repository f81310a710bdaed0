"""How narrow may it be?"""

import numpy as np

from positronic_course.ch15_classification import descend
from positronic_course.ch16_instructions import PAIRS, answer_loss_and_gradients, rows_of
from positronic_course.ch18_low_rank import adapter_loss_and_gradients, is_adapted, new_adapters
from positronic_course.drawing import Drawing
from positronic_course.figures import trained


def figure() -> Drawing:
    """Left: the loss on ten answers while adapters of rank 1 and 4 learn them, and while every number of the model may
    change. Right: how large the parts are of what full tuning added to a matrix, the largest first: a few carry most of
    it, which is why a low rank goes far."""
    trainer = trained()
    config, base = trainer.config, trainer.parameters
    rows = rows_of(PAIRS, trainer.corpus.tokenizer)
    drawing = Drawing(2)
    panel = drawing.panel(0, "Learning ten answers", (0, 80), (0, 6), x="step", y="nats a token")
    for colour, rank in enumerate((1, 4)):
        learnt = new_adapters(base, rank)

        def step_of(step: int, learnt: dict = learnt) -> tuple:
            return adapter_loss_and_gradients(base, learnt, rows, config, 2.0)

        count = sum(value.size for value in learnt.values())
        panel.line(range(80), list(descend(learnt, step_of, 80, 1e-2)), colour, f"rank {rank}: {count:,}")
    whole = {name: value.copy() for name, value in base.items()}
    losses = list(descend(whole, lambda step: answer_loss_and_gradients(whole, rows, config), 80, 3e-3))
    panel.line(range(80), losses, 2, f"everything: {sum(value.size for value in whole.values()):,}")
    parts = drawing.panel(1, "What full tuning added", (0, 24), (0, 1), x="part", y="size / largest")
    for colour, name in enumerate(name for name in base if is_adapted(name) and name.endswith((".value", ".down"))):
        sizes = np.linalg.svd(whole[name] - base[name], compute_uv=False)[:24]
        parts.line(range(len(sizes)), sizes / sizes[0], colour, name.removeprefix("blocks.0."))
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
