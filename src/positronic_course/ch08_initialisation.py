"""Initialisation.

Where should the parameters begin? Not at zero: all columns would get the same gradient and stay the same for ever. Small
random numbers tell them apart. How small is a question of variance.

A linear map adds D_in terms. If x has independent entries of mean 0 and variance v, and w entries of variance s^2, then

    Var(y_j) = sum_i Var(x_i w_ij) = D_in s^2 v

Through n such maps the variance is (D_in s^2)^n v: with D_in s^2 = 2 and 20 layers a million times too large, with 1/2
a million times too small. Only s = 1 / sqrt(D_in) keeps it. Norms forgive a wrong scale, because they divide it away,
so most language models take one s for all matrices, and so do we: 0.02, close to 1 / sqrt(D) for widths of some thousands,
smaller than that for our small D. Then each branch begins quiet and the stream is nearly the embedding.

The stream adds up what 2 branches a layer write into it. Independent variances add:

    Var(x after n layers) = Var(embedding) + 2 n Var(branch)

It grows with depth. Dividing the matrix that writes into the stream (`out`, `down`) by sqrt(2 n_layers) divides the variance of
a branch by 2 n, and the sum is that of one branch at any depth.

Gains begin at 1, biases at 0. The embedding begins at 0.02 as well: it is the head, too, and logits of a normed vector (length
sqrt(D)) with rows of 0.02 have a standard deviation of 0.02 sqrt(D), 0.2 at D = 128: nearly uniform, so the first loss is log W.

Hardware: random numbers are drawn in float64 and rounded, so that float32 and float64 models begin alike, and a seed names
one model on every machine. Variance is what a number format must hold: float16 has its finest grid between 2^-14 and 1, and
gradients, 1 / (B T) of a small number, fall out of it. Training in float16 multiplies the loss first; bfloat16 need not.
"""

import numpy as np

from positronic_course.ch03_linear_and_norms import Parameters
from positronic_course.ch07_loss import ModelConfig, forward, loss_and_gradients

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


def initialise(config: ModelConfig, seed: int, dtype: type = np.float32) -> Parameters:
    """Parameters to begin with: the same for the same seed."""
    rng = np.random.default_rng(seed)
    parameters: Parameters = {}
    for name, shape in shapes(config).items():
        if name.endswith(("gain", "bias")):
            parameters[name] = np.full(shape, 1 if name.endswith("gain") else 0, dtype)
        else:
            writes = name.endswith(("attention.out", "feed.down"))
            scale = STANDARD_DEVIATION / (2 * config.n_layers) ** 0.5 if writes else STANDARD_DEVIATION
            parameters[name] = rng.normal(scale=scale, size=shape).astype(dtype)
    return parameters


def n_parameters(parameters: Parameters) -> int:
    return sum(value.size for value in parameters.values())


if __name__ == "__main__":
    rng = np.random.default_rng(0)

    # Twenty linear maps in a row, with three standard deviations.
    for factor in (0.5, 1.0, 2.0):
        x = rng.normal(size=(64, 128))
        for _ in range(20):
            x = x @ rng.normal(scale=(factor / 128) ** 0.5, size=(128, 128))
        print(f"D_in s^2 = {factor}: variance after 20 layers {x.var():.3g}")

    # The first loss of a new model is log W, whatever its depth.
    ids = rng.integers(0, 300, size=(2, 33))
    for n_layers in (2, 8):
        config = ModelConfig(vocab_size=300, d_model=64, n_heads=2, d_hidden=172, n_layers=n_layers)
        parameters = initialise(config, seed=0)
        loss, gradients = loss_and_gradients(parameters, ids[:, :-1], ids[:, 1:], config)
        _, saved = forward(parameters, ids[:, :-1], config)
        print(f"{n_layers} layers, {n_parameters(parameters):,} parameters: loss {loss:.3f}, log W {np.log(300):.3f}")
