"""Low-rank adapters.

Tuning changes every number of a model a little: a copy as large as the model for each thing it is taught. Is so much
needed? Leave w alone and learn only a correction that passes through a narrow place, *rank* numbers wide:

    y = x w + scale (x shrink) grow        w (D_in, D_out) frozen, shrink (D_in, rank), grow (rank, D_out) learnt

shrink grow is a matrix of the shape of w, but of rank (D_in + D_out) numbers in place of D_in D_out.

*By numbers*: D_in = D_out = 48 are 2,304 numbers; with rank 4 the adapter has 4 * (48 + 48) = 384, a sixth. At D = 4096
and rank 8 it would be 1/256.

At the start grow is zero, so the model is the old one to the bit, and shrink is random: if both were zero, neither
would have a gradient, since each is the other's factor.

Backward
--------
Two linear maps in a row beside a third, chapter 3 three times. Write c = x shrink, then

    dgrow = scale c^T dy        dc = scale dy grow^T        dshrink = x^T dc        dx = dy w^T + dc shrink^T

*By numbers*: x = (1, 2), shrink = (1, 1), rank 1, so c = 3; grow = (2, 0), scale 0.5. The correction is 0.5 * 3 * (2,
0) = (3, 0). With dy = (1, 1): dgrow = 0.5 * 3 * (1, 1) = (1.5, 1.5); dc = 0.5 * (1 * 2 + 1 * 0) = 1; dshrink = (1, 2).

w has no gradient: nothing of the size of w is kept for the optimiser, whose averages are two more copies.

Merging
-------
The two ways are one matrix: x w + scale (x shrink) grow = x (w + scale shrink grow). Added into w when learning is
over, an adapter costs nothing; taken away again, the old model is back but for rounding.

The same identity gives the gradients of an adapter from that of w, so that a model need not know of it:

    dshrink = x^T (scale dy grow^T) = scale (x^T dy) grow^T = scale dw grow^T          dgrow = scale shrink^T dw

The products stand in another order and the result is the same. It is how we adapt our small model below: merge, run the
model, and project its gradients. The price is that dw is made after all, which the first form never does.

What rank is enough?
--------------------
Any matrix is a sum of rank-one matrices, its singular values say how large each is, and the best correction of a given
rank keeps the largest. If what tuning changes has few large ones, a small rank keeps nearly all of it. A low rank is
also a promise: an adapter cannot turn the model far from what it was, so less is forgotten.

Hardware: the forward pass does the work of w and a little more; what is saved is memory. With Adam a float32 weight
that is trained takes 16 bytes (itself, its gradient, two averages), a frozen one 4, or 1 where it is kept in 8 bits.

Source: Hu et al. 2021, "LoRA: low-rank adaptation of large language models".
"""

import numpy as np

from positronic_course.ch03_linear_and_norms import Parameters, flat
from positronic_course.ch07_loss import ModelConfig
from positronic_course.ch15_classification import descend, small_model
from positronic_course.ch16_instructions import PAIRS, Rows, answer_loss_and_gradients, reply, rows_of


def low_rank(x: np.ndarray, w: np.ndarray, shrink: np.ndarray, grow: np.ndarray, scale: float) -> tuple:
    """x (..., D_in) -> y (..., D_out)."""
    c = x @ shrink
    return x @ w + scale * (c @ grow), (x, w, shrink, grow, scale, c)


def low_rank_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dshrink, dgrow; w is frozen."""
    x, w, shrink, grow, scale, c = saved
    dc = scale * (dy @ grow.T)
    dgrow = scale * (flat(c).T @ flat(dy))
    dshrink = flat(x).T @ flat(dc)
    return dy @ w.T + dc @ shrink.T, dshrink, dgrow


def is_adapted(name: str) -> bool:
    """Whether the matrix of this name gets an adapter: all of attention and of the feed-forward parts."""
    return ".attention." in name or ".feed." in name


def new_adapters(parameters: Parameters, rank: int, seed: int = 0) -> Parameters:
    """name.shrink and name.grow for each adapted matrix: silent, as every grow is zero."""
    rng = np.random.default_rng(seed)
    adapters: Parameters = {}
    for name, w in parameters.items():
        if is_adapted(name):
            shrink = rng.normal(scale=len(w) ** -0.5, size=(len(w), rank))
            adapters[f"{name}.shrink"] = shrink.astype(w.dtype)
            adapters[f"{name}.grow"] = np.zeros((rank, w.shape[1]), w.dtype)
    return adapters


def merged(parameters: Parameters, adapters: Parameters, scale: float) -> Parameters:
    """The model with its adapters added in; the arrays that have none are the same ones."""
    return {
        name: w + scale * (adapters[f"{name}.shrink"] @ adapters[f"{name}.grow"]) if f"{name}.grow" in adapters else w
        for name, w in parameters.items()
    }


def projected(gradients: Parameters, adapters: Parameters, scale: float) -> Parameters:
    """Gradients of the adapters from those of the merged model."""
    found: Parameters = {}
    for name in adapters:
        matrix, _, side = name.rpartition(".")
        dw = gradients[matrix]
        if side == "shrink":
            found[name] = scale * (dw @ adapters[f"{matrix}.grow"].T)
        else:
            found[name] = scale * (adapters[f"{matrix}.shrink"].T @ dw)
    return found


def adapter_loss_and_gradients(
    parameters: Parameters, adapters: Parameters, rows: Rows, config: ModelConfig, scale: float
) -> tuple[np.floating, Parameters]:
    """The loss of answers (chapter 16), and the gradients of the adapters alone."""
    loss, gradients = answer_loss_and_gradients(merged(parameters, adapters, scale), rows, config)
    return loss, projected(gradients, adapters, scale)


if __name__ == "__main__":
    from positronic_course.ch10_training import evaluate

    trainer = small_model()
    config, tokenizer, base = trainer.config, trainer.corpus.tokenizer, trainer.parameters
    rows = rows_of(PAIRS, tokenizer)
    before = evaluate(base, config, trainer.corpus.training, tokenizer)["nats_per_token"]
    print(f"before: answers {float(answer_loss_and_gradients(base, rows, config)[0]):.3f}, stories {before:.3f}")

    # The answers of chapter 16, learnt by adapters of several ranks and by all numbers of the model.
    for rank in (1, 4, 0):
        if rank:
            learnt = new_adapters(base, rank)
            steps = descend(
                learnt, lambda step, own=learnt: adapter_loss_and_gradients(base, own, rows, config, 2.0), 80, 1e-2
            )
        else:
            learnt = {name: value.copy() for name, value in base.items()}
            steps = descend(learnt, lambda step, own=learnt: answer_loss_and_gradients(own, rows, config), 80, 3e-3)
        losses = list(steps)
        tuned = merged(base, learnt, 2.0) if rank else learnt
        stories = evaluate(tuned, config, trainer.corpus.training, tokenizer)["nats_per_token"]
        count = sum(value.size for value in learnt.values())
        title = f"rank {rank}" if rank else "everything"
        print(f"{title:10} {count:6,} numbers: answers {losses[-1]:.3f}, stories {stories:.3f}")
        if rank == 4:
            print("  ", *(f"{question} {reply(tuned, config, tokenizer, question)}" for question, _ in PAIRS[:3]))
