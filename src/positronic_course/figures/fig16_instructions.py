"""What is learnt, and what is forgotten."""

from positronic_course.ch10_training import evaluate
from positronic_course.ch15_classification import descend
from positronic_course.ch16_instructions import PAIRS, answer_loss_and_gradients, rows_of
from positronic_course.drawing import Drawing
from positronic_course.figures import trained


def figure() -> Drawing:
    """While a small model learns ten answers by heart, its loss on them falls to nearly 0, and its loss on the stories
    that it had read grows: nobody shows them to it any more."""
    trainer = trained()
    config, tokenizer = trainer.config, trainer.corpus.tokenizer
    parameters = {name: value.copy() for name, value in trainer.parameters.items()}
    rows, some = rows_of(PAIRS, tokenizer), trainer.corpus.training[:2049]
    stories = [evaluate(parameters, config, some, tokenizer)["nats_per_token"]]
    losses = []
    for loss in descend(parameters, lambda step: answer_loss_and_gradients(parameters, rows, config), 80, 3e-3):
        losses.append(loss)
        if len(losses) % 10 == 0:
            stories.append(evaluate(parameters, config, some, tokenizer)["nats_per_token"])
    drawing = Drawing(1, width=420)
    panel = drawing.panel(0, "Learning to answer", (0, 80), (0, 6), x="step", y="nats a token")
    panel.line(range(len(losses)), losses, 0, "answers")
    panel.line(range(0, 81, 10), stories, 1, "stories")
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
