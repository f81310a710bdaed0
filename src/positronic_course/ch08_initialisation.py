"""Initialisation.

Where should the parameters begin? Not at zero, where nothing passes and nothing comes back, and not at one value, for
columns that are equal get equal gradients and stay equal for ever. Small random numbers tell them apart. How small is
a question of variance.

*By numbers*: D_in = 100. With weights of 0.1 a map keeps the variance, 100 * 0.1^2 = 1. With weights of 0.2 it makes it
four times as large, and ten maps 4^10 = 1,048,576 times.

A linear map adds D_in terms. If x has independent entries of mean 0, and w entries of standard deviation sigma:

    Var(y_j) = sum_i Var(x_i w_ij) = D_in sigma^2 Var(x)

Through n such maps it is (D_in sigma^2)^n Var(x): with D_in sigma^2 = 2 and n = 20 a million times too large, with 1/2
a million times too small. Only sigma = 1 / sqrt(D_in) keeps it, and backward, which multiplies by the transpose, asks
the same of D_out. Norms forgive a wrong sigma, because they divide it away, so most language models take one for all
matrices and so do we: 0.02, which is 1 / sqrt(D) at D = 2500. Our D is smaller, so every branch begins quieter than
the rule would have it.

The stream, however, adds up what two branches a block write into it, and there is no norm on it. Independent
variances add:

    Var(x after n blocks) = Var(embedding) + 2 n Var(branch)

*By numbers*: 8 blocks write 16 times. Branches of variance 1 make a stream of variance 16; divided by sqrt(16) = 4 each
has a variance of 1/16, and all together 1.

It grows with depth. Dividing the two matrices that write into the stream, `out` and `down`, by sqrt(2 n) divides the
variance of a branch by 2 n: the sum is then what one branch alone would write, at any depth. The demonstration
measures it.

Gains begin at 1, biases at 0. The embedding begins at 0.02 as well, because it is also the head: the logits of a
normed vector, whose length is sqrt(D), have a standard deviation of 0.02 sqrt(D), 0.23 at D = 128. That is nearly
uniform over the vocabulary, so the first loss is near log W, and a first loss far from it is the cheapest sign of a
mistake.

Hardware: the numbers are drawn in float64 and rounded, so that a float32 and a float64 model of one seed begin alike.
A number format is a range for variances: float16 is at its best between 6 10^-5 and 65,504, loses a bit with every
halving below that and ends at 6 10^-8. Twenty maps with D_in sigma^2 = 2 or 1/2 use up ten of the thirty doublings that
are its best.
"""

import numpy as np
from numpy.typing import DTypeLike

from positronic_course.ch02_embeddings import embed
from positronic_course.ch03_linear_and_norms import Parameters, part
from positronic_course.ch06_block import block
from positronic_course.ch07_loss import ModelConfig, loss_and_gradients

STANDARD_DEVIATION = 0.02


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name to shape of every parameter: the one list of what a model is made of."""
    D, F = config.d_model, config.d_hidden
    norm = ("gain", "bias") if config.norm == "layer" else ("gain",)
    inside: dict[str, tuple[int, ...]] = {f"attention_norm.{name}": (D,) for name in norm}
    inside |= {f"attention.{name}": (D, D) for name in ("query", "key", "value", "out")}
    inside |= {f"feed_norm.{name}": (D,) for name in norm}
    inside |= {"feed.up": (D, F)} | ({"feed.gate": (D, F)} if config.gated else {}) | {"feed.down": (F, D)}
    model: dict[str, tuple[int, ...]] = {"embedding": (config.vocab_size, D)}
    if config.positions == "learned":
        model["positions"] = (config.context, D)
    for layer in range(config.n_layers):
        model |= {f"blocks.{layer}.{name}": shape for name, shape in inside.items()}
    return model | {f"final.{name}": (D,) for name in norm}


def is_writer(name: str) -> bool:
    """Whether the matrix of this name writes into the stream."""
    return name.endswith(("attention.out", "feed.down"))


def initialise(config: ModelConfig, seed: int, dtype: DTypeLike = np.float32) -> Parameters:
    """Parameters to begin with: the same for the same seed."""
    rng = np.random.default_rng(seed)
    parameters: Parameters = {}
    for name, shape in shapes(config).items():
        if name.endswith(("gain", "bias")):
            parameters[name] = np.full(shape, 1 if name.endswith("gain") else 0, dtype)
        else:
            scale = STANDARD_DEVIATION / (2 * config.n_layers) ** 0.5 if is_writer(name) else STANDARD_DEVIATION
            parameters[name] = rng.normal(scale=scale, size=shape).astype(dtype)
    return parameters


def n_parameters(parameters: Parameters) -> int:
    return sum(value.size for value in parameters.values())


if __name__ == "__main__":
    rng = np.random.default_rng(0)

    # Twenty linear maps in a row.
    for factor in (0.5, 1.0, 2.0):
        x = rng.normal(size=(64, 128))
        for _ in range(20):
            x = x @ rng.normal(scale=(factor / 128) ** 0.5, size=(128, 128))
        print(f"D_in sigma^2 = {factor}: variance {x.var():.3g} after 20 maps")

    # The stream at the end of models of several depths: writers divided by sqrt(2 n), or as loud as other matrices.
    ids = rng.integers(0, 300, size=(2, 33))
    for n_layers in (2, 8, 32):
        config = ModelConfig(vocab_size=300, d_model=64, n_heads=2, d_hidden=172, n_layers=n_layers)
        parameters = initialise(config, seed=0)
        factor = (2 * n_layers) ** 0.5
        loud = {name: value * factor if is_writer(name) else value for name, value in parameters.items()}
        for title, tried in (("divided", parameters), ("as loud", loud)):
            x = embed(ids[:, :-1], tried["embedding"])[0]
            before = x.var()
            for layer in range(n_layers):
                x = block(x, part(tried, f"blocks.{layer}."), config)[0]
            loss = loss_and_gradients(tried, ids[:, :-1], ids[:, 1:], config)[0]
            print(f"{n_layers:2} blocks, writers {title}: variance x {x.var() / before:5.2f}, first loss {loss:.3f}")
    print(f"log W = {np.log(300):.3f}")
