"""Classification.

A model that has read much text can be asked something other than the next token: which of C classes is this text of?
What it has learnt is kept; only the head is new.

Pooling
-------
A text has T vectors, a class is one. Take their mean, over the tokens that count (weight 1; padding has 0):

    pooled = sum_t weight[t] x[t] / sum_t weight[t]                  x (B, T, D) -> pooled (B, D)

The mean sees every token, the last vector would too (attention has read all before it), the first would not.

*By numbers*: three tokens (1, 0), (3, 0), (9, 9) with the weights 1, 1, 0. pooled = (4, 0) / 2 = (2, 0). If dpooled is
(4, 2), each of the first two gets half of it, (2, 1), and the third nothing.

Backward: pooled is linear in x, and x[t] has the factor weight[t] / sum, so dx[t] = dpooled weight[t] / sum.

Head and loss
-------------
    logits = pooled w + bias                      w (D, C), bias (C,)
    loss   = - log p_label                        p = softmax(logits), the cross-entropy of chapter 7 with one target

*By numbers*: two classes with the logits 1 and -1 have p = (0.881, 0.119). If the second was right, the loss is 2.127,
and the logits are pulled by (0.881, -0.881).

Backward is a walk through what is known: from the logits to w, bias and pooled as in a linear map, from pooled to x as
above, from x through the model as in chapter 7, without the head that guessed tokens.

What is trained
---------------
*The head alone*: the model is frozen, its vectors are features, D C + C numbers are learnt. *Everything*: the model
turns towards the question, which needs a smaller rate, more care, and a text that is held out, since a model of forty
thousand numbers can learn a few hundred labels by heart.

Always ask what a fool would get: the share of the most frequent class. Below the question is whether a line of the
stories runs forwards or was turned round letter by letter. Both have the same letters, so whoever only counts letters
is right in half of the cases; the order must have been read.

Hardware: features of a frozen model are computed once and kept, B D numbers, so that a head is trained in no time; and
many heads can share one model in memory.
"""

from collections.abc import Callable, Iterator
from importlib.resources import files

import numpy as np

from positronic_course.ch03_linear_and_norms import Parameters, linear, linear_backward
from positronic_course.ch07_loss import ModelConfig, cross_entropy, cross_entropy_backward, trunk, trunk_backward
from positronic_course.ch09_optimisers import AdamW, clip, warm_up_cosine
from positronic_course.ch10_training import Corpus, Trainer, TrainingConfig


def small_model(epochs: int = 6) -> Trainer:
    """A model of 40,080 parameters that has read the stories so many times."""
    corpus = Corpus.of(files("positronic_course").joinpath("corpus.txt").read_text("utf-8"))
    config = ModelConfig(vocab_size=len(corpus.tokenizer), d_model=48, n_heads=4, n_layers=1, d_hidden=128, context=64)
    trainer = Trainer(config, TrainingConfig(epochs=epochs), corpus)
    for _ in trainer.run():
        pass
    return trainer


def descend(
    parameters: Parameters, step_of: Callable[[int], tuple[np.floating, Parameters]], n: int, rate: float
) -> Iterator[float]:
    """n steps of Adam on these parameters, in place; step_of(number) gives the loss and gradients of one, by name."""
    optimiser = AdamW(parameters, decay=0.0)
    for step in range(n):
        loss, gradients = step_of(step)
        clip(gradients, 1.0)
        optimiser.step(parameters, gradients, warm_up_cosine(step, n, rate, max(1, n // 10)))
        yield float(loss)


def pool(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, tuple]:
    """x (B, T, D), weights (B, T) -> the weighted mean over the tokens (B, D)."""
    share = (weights / weights.sum(axis=1, keepdims=True)).astype(x.dtype)
    return np.einsum("bt,btd->bd", share, x), (share,)


def pool_backward(dpooled: np.ndarray, saved: tuple) -> np.ndarray:
    """dx (B, T, D)."""
    (share,) = saved
    return share[:, :, None] * dpooled[:, None]


def new_head(D: int, C: int, dtype: type = np.float32) -> Parameters:
    """Zeros: every class is equally likely, and the gradient of w is not zero."""
    return {"class.w": np.zeros((D, C), dtype), "class.bias": np.zeros(C, dtype)}


def classify(
    parameters: Parameters, ids: np.ndarray, weights: np.ndarray, config: ModelConfig
) -> tuple[np.ndarray, tuple]:
    """ids (B, T), weights (B, T) -> logits (B, C). parameters: a model's, and class.w and class.bias."""
    x, saved_trunk = trunk(parameters, ids, config)
    pooled, saved_pool = pool(x, weights)
    logits, saved_head = linear(pooled, parameters["class.w"], parameters["class.bias"])
    return logits, (saved_trunk, saved_pool, saved_head)


def classify_backward(dlogits: np.ndarray, saved: tuple) -> Parameters:
    """Gradients of all parameters, by name."""
    saved_trunk, saved_pool, saved_head = saved
    dpooled, dw, dbias = linear_backward(dlogits, saved_head)
    gradients = trunk_backward(pool_backward(dpooled, saved_pool), saved_trunk)
    return gradients | {"class.w": dw, "class.bias": dbias}


def label_loss(
    parameters: Parameters, ids: np.ndarray, labels: np.ndarray, config: ModelConfig
) -> tuple[np.floating, Parameters]:
    """Mean loss of texts ids (B, T) without padding, labels (B,), and the gradients."""
    logits, saved = classify(parameters, ids, np.ones(ids.shape), config)
    loss, saved_loss = cross_entropy(logits[:, None], labels[:, None])
    return loss, classify_backward(cross_entropy_backward(saved_loss)[:, 0], saved)


def accuracy(parameters: Parameters, ids: np.ndarray, labels: np.ndarray, config: ModelConfig) -> float:
    """The share of texts whose class has the largest logit."""
    logits, _ = classify(parameters, ids, np.ones(ids.shape), config)
    return float((logits.argmax(axis=1) == labels).mean())


def forwards_and_backwards(ids: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray]:
    """A text in pieces of T tokens, every second one turned round: ids (n, T), labels (n,), 1 where it was turned."""
    rows = ids[: len(ids) // T * T].reshape(-1, T).copy()
    labels = np.arange(len(rows)) % 2
    rows[labels == 1] = rows[labels == 1, ::-1]
    return rows, labels


if __name__ == "__main__":
    trainer = small_model()
    config = trainer.config
    seen, unseen = (forwards_and_backwards(ids, 24) for ids in (trainer.corpus.training, trainer.corpus.held_out))
    print(f"{len(seen[1])} texts to learn from, {len(unseen[1])} held out; always the same answer: {0.5:.2f}")

    # Three learners: a head on the frozen model, everything, and a head on a model whose block is missing.
    def learn(name: str, config: ModelConfig, parameters: Parameters, learnt: Parameters, rate: float) -> None:
        def batch(step: int) -> tuple[np.floating, Parameters]:
            rows = np.random.default_rng(step).choice(len(seen[1]), 32, replace=False)
            return label_loss(parameters, seen[0][rows], seen[1][rows], config)

        losses = list(descend(learnt, batch, 120, rate))
        right = [accuracy(parameters, *part, config) for part in (seen, unseen)]
        count = sum(value.size for value in learnt.values())
        print(f"{name:20} {count:6,} numbers learnt  loss {losses[0]:.3f} -> {np.mean(losses[-10:]):.3f}", end="  ")
        print(f"right: seen {right[0]:.2f}, held out {right[1]:.2f}")

    for name in ("the head alone", "everything", "counting letters"):
        parameters = {key: value.copy() for key, value in trainer.parameters.items()}
        if name == "counting letters":
            parameters |= {key: 0 * value for key, value in parameters.items() if key.endswith((".out", ".down"))}
        head = new_head(config.d_model, 2)
        parameters |= head
        learn(name, config, parameters, parameters if name == "everything" else head, 3e-3 if "every" in name else 3e-2)
