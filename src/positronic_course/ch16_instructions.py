"""Instruction tuning.

A model of text continues whatever it is given: asked a question it may well ask another one. To make it answer, show it
questions with answers, in a form that is always the same, and let it learn the answers alone.

    Q: Who lit the lamp?
    A: Anna.

The form says where the question ends. It must be the same later, when the model is asked: what comes after "A:" has
been learnt as an answer, and nothing else has.

Weights
-------
A row is question and answer one after the other, n tokens, so it has n - 1 targets. Targets inside the question get the
weight 0 and those of the answer, its end included, the weight 1: the cross-entropy of chapter 7 takes such weights.

    loss = sum_t weight[t] (- log p[t, target]) / sum_t weight[t]

Why not learn the questions too? They would be most of the loss, the model is never asked to write them, and what it
would learn there is how our questions happen to be worded.

*By numbers*: 3 tokens of question and 2 of answer make 4 targets, with the weights 0, 0, 1, 1. If they cost 5, 5, 1 and
3 nats, the loss is (1 + 3) / 2 = 2; with the question it would be 3.5, and half of the gradient would go there.

Backward, from the sum: the logits of place t have the gradient of one token's loss, times their share of the weights:

    dz[t, j] = weight[t] / sum of weights * (p[t, j] - [j = target])

At a place of weight 0 it is 0: nothing is learnt from what is foreseen there. But the tokens of the question are still
read by those of the answer, so the gradient flows through attention into them, and how to read questions is learnt.

Which mean?
-----------
Over all tokens of a batch, an answer of 30 tokens counts thirty times as much as an answer of one. To count each answer
alike, divide the weights of a row by their sum first:

    share[row, t] = weight[row, t] / sum_t weight[row, t]          loss = mean over rows of sum_t share loss[row, t]

*By numbers*: an answer of one token that costs 4 nats, and one of three that cost 1 each. A token's mean is 7 / 4 =
1.75; an answer's mean is (4 + 1) / 2 = 2.5. The first would let the short one pay less than a third of what it owes.

Backward needs nothing new: the shares are weights. Frameworks differ here, and numbers of one do not compare with those
of another before one has looked.

What is lost
------------
What is not shown any more is forgotten: while the model learns to answer, its loss on the stories grows. Watch both.
Fewer steps, a smaller rate, and some of the old text among the new rows keep more.

Hardware: rows of different lengths are filled up with padding of weight 0, which costs as much work as any other token;
sorting rows by length, or packing several into one, saves it.
"""

from collections.abc import Sequence

import numpy as np

from positronic_course.ch01_tokenizers import Tokenizer
from positronic_course.ch03_linear_and_norms import Parameters
from positronic_course.ch07_loss import ModelConfig, backward, cross_entropy, cross_entropy_backward, forward
from positronic_course.ch11_generation import generate
from positronic_course.ch15_classification import descend, small_model

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""ids, targets and weights, each (B, T)."""

PAIRS = (
    ("Who lit the lamp?", "Anna."),
    ("Who was ill?", "Tom."),
    ("What is by the sea?", "The town."),
    ("What could the cat do?", "Count."),
    ("What was the cat called?", "Pepper."),
    ("What colour was the coat?", "Red."),
    ("Where is the lamp?", "On the hill."),
    ("How old was Anna?", "Seven."),
    ("What did the men give the cat?", "A fish."),
    ("What took the match?", "The wind."),
)
"""Questions about the stories, and their answers."""


def question_form(question: str) -> str:
    """What the model is given."""
    return f"Q: {question}\nA:"


def rows_of(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> Rows:
    """Questions and answers as rows, the shorter ones filled up with id 0 of weight 0."""
    asked = [tokenizer.encode(question_form(question)) for question, _ in pairs]
    said = [tokenizer.encode(f" {answer}\n") for _, answer in pairs]
    T = max(len(a) + len(b) for a, b in zip(asked, said, strict=True))
    whole = np.zeros((len(pairs), T), np.int64)
    weights = np.zeros((len(pairs), T))
    for row, (a, b) in enumerate(zip(asked, said, strict=True)):
        whole[row, : len(a) + len(b)] = np.concatenate([a, b])
        weights[row, len(a) : len(a) + len(b)] = 1
    return whole[:, :-1], whole[:, 1:], weights[:, 1:]


def equal_answers(weights: np.ndarray) -> np.ndarray:
    """Weights (B, T) with which each answer counts alike, however long it is."""
    return weights / weights.sum(axis=1, keepdims=True)


def answer_loss(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.floating, tuple]:
    """logits (B, T, W), targets and weights (B, T) -> nats a token of an answer, the mean over answers."""
    return cross_entropy(logits, targets, equal_answers(weights))


def answer_loss_and_gradients(parameters: Parameters, rows: Rows, config: ModelConfig) -> tuple:
    """The loss of the answers, and the gradients of all parameters."""
    ids, targets, weights = rows
    logits, saved = forward(parameters, ids, config)
    loss, saved_loss = answer_loss(logits, targets, weights)
    return loss, backward(cross_entropy_backward(saved_loss), saved)


def reply(parameters: Parameters, config: ModelConfig, tokenizer: Tokenizer, question: str, n: int = 24) -> str:
    """What the model answers, the likeliest token each time: to the end of the line, n tokens at most."""
    ids = tokenizer.encode(question_form(question))
    new = generate(parameters, config, ids, n, temperature=0, rng=np.random.default_rng(0))
    return tokenizer.decode(new).partition("\n")[0].strip()


if __name__ == "__main__":
    from positronic_course.ch10_training import evaluate

    trainer = small_model()
    config, tokenizer, parameters = trainer.config, trainer.corpus.tokenizer, trainer.parameters
    rows = rows_of(PAIRS, tokenizer)

    # One row, target by target: nothing before the answer counts.
    ids, targets, weights = (part[0] for part in rows)
    shown = "".join(tokenizer.decode([t]) if w else "." for t, w in zip(targets, weights, strict=True))
    print("the targets that count:", repr(shown.rstrip(".") + "..."[: len(shown) - len(shown.rstrip("."))]))

    # Before and after: what it answers, and what the stories cost it.
    def show(title: str) -> None:
        loss, _ = answer_loss_and_gradients(parameters, rows, config)
        stories = evaluate(parameters, config, trainer.corpus.training, tokenizer)["nats_per_token"]
        print(f"{title}: answers {float(loss):.3f} nats a token, stories {stories:.3f}")
        for question, answer in PAIRS[:4]:
            print(f"  {question:24} {reply(parameters, config, tokenizer, question)!r:28} wanted {answer!r}")

    show("before")
    for _ in descend(parameters, lambda step: answer_loss_and_gradients(parameters, rows, config), 80, 3e-3):
        pass
    show("after")
