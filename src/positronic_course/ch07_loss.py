"""Loss, and the whole model.

Cross-entropy
-------------
The model gives every token of the vocabulary a number, its logit z. Softmax makes probabilities of them, and the loss
is how surprised it was by the token that really came, the target: minus the natural logarithm of its probability. Its
unit is the nat, as the bit is that of log2: 1 nat is 1 / log 2 bits.

    loss = - log p_target = log(sum_j exp(z_j)) - z_target     p = softmax(z)

The loss of a batch is the mean over its tokens, or the mean under weights that leave some tokens out (padding: 0).
Before anything is learnt, p is about 1 / W for everything, so the loss is near log W: look for that number first.

*By numbers*: z = (2, 1, 0) has the exponentials 7.389, 2.718 and 1, whose sum is 11.107, so p = (0.665, 0.245, 0.090).
If the second token came, the loss is -log 0.245 = 1.408 and dz = (0.665, 0.245 - 1, 0.090) = (0.665, -0.755, 0.090).

Backward. The derivative of log(sum exp z) by z_j is exp(z_j) / sum = p_j; that of z_target is 1 for j = target.
With n tokens:

    dz_j = (p_j - [j = target]) / n

What was said minus what was true. Here softmax and logarithm meet and the awkward parts of both are gone: no division
by p, nothing that could become infinite.

The model
---------
    ids (B, T) -> x = E[ids] -> positions -> blocks -> norm -> logits = x E^T        E (W, D), the embedding table

Tied: the table that turns ids into vectors also turns vectors into ids, so that a logit is how well the final vector
agrees with the token's own vector. E is used twice, so its two gradients add up: from the head dlogits^T x, from the
lookup as before. The target of position t is the token at t + 1: one row of T + 1 tokens gives T predictions at once,
which the causal mask keeps honest.

Backward runs the same list from the end. That is all there is to backpropagation: each operation, in reverse, gets
dL/d(its result) and hands on dL/d(its input).

Hardware: with a vocabulary of tens of thousands the logits are the largest array of a small model. The largest logit is
taken off first, as in softmax. A sum of n losses rounds at every addition, so NumPy's dot product, which keeps partial
sums, is kinder than a loop. A model that is right and sure has a loss that float32 cannot tell from 0: 1 + 10^-8 is 1
there, and in float16 1 + 4 10^-4 is. And dz has 1 / n in it: for n = 100,000 tokens most of its numbers lie below 6
10^-8, where float16 ends, which is why training in float16 multiplies the loss by a large number first and divides the
gradients by it afterwards.
"""

from dataclasses import dataclass

import numpy as np

from positronic_course import CourseError
from positronic_course.ch02_embeddings import (
    embed,
    embed_backward,
    learned_positions,
    learned_positions_backward,
    rotation,
    sinusoidal,
)
from positronic_course.ch03_linear_and_norms import NORMS, Parameters, flat, part, prefixed
from positronic_course.ch05_attention import Turn
from positronic_course.ch06_block import BlockConfig, attention_of_block, block, block_backward, check_choice

POSITIONS = ("rotary", "learned", "sinusoidal")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(BlockConfig):
    """A block's config, and what lies around the blocks."""

    vocab_size: int
    """W, pieces of the tokenizer."""
    n_layers: int = 4
    """Blocks."""
    context: int = 128
    """Tokens in a row of training."""
    positions: str = "rotary"
    """rotary, learned or sinusoidal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vocab_size", "n_layers", "context"):
            if getattr(self, name) < 1:
                raise CourseError(f"{name} is {getattr(self, name)}; use 1 or more.")
        check_choice("positions", self.positions, POSITIONS)
        turned = {"rotary": self.d_model // self.n_heads, "sinusoidal": self.d_model, "learned": 0}[self.positions]
        if turned % 2:
            raise CourseError(
                f"{self.positions} positions work on pairs, and {turned} columns are odd; change d_model or n_heads."
            )


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.floating, tuple]:
    """logits (B, T, W), targets (B, T) -> nats a token, the mean; weights (B, T) make it a weighted mean."""
    weights = np.ones(targets.shape) if weights is None else weights
    if not weights.any():
        raise CourseError("All weights are 0, so there is nothing to learn from; give at least one token a weight.")
    share = (weights / weights.sum()).ravel().astype(logits.dtype)
    z = flat(logits)
    at = np.arange(len(z)), targets.ravel()
    z = z - z.max(axis=-1, keepdims=True)
    right = z[at]
    np.exp(z, out=z)
    total = z.sum(axis=-1)
    loss = share @ (np.log(total) - right)
    z /= total[:, None]  # the probabilities, from here on
    return loss, (z, at, share, logits.shape)


def cross_entropy_backward(saved: tuple) -> np.ndarray:
    """dlogits (B, T, W) of a loss whose own gradient is 1."""
    p, at, share, shape = saved
    dlogits = p * share[:, None]
    dlogits[at] -= share
    return dlogits.reshape(shape)


def placed(
    x: np.ndarray, parameters: Parameters, config: ModelConfig, start: int
) -> tuple[np.ndarray, tuple, Turn | None]:
    """x with its positions, what backward needs, and the rotation for the blocks."""
    T = x.shape[1]
    if config.positions == "learned":
        return *learned_positions(x, parameters["positions"], start), None
    if config.positions == "sinusoidal":
        return x + sinusoidal(start, T, config.d_model, x.dtype), (), None
    turn = rotation(np.arange(start, start + T), config.d_model // config.n_heads, dtype=x.dtype)
    return x, (), turn


Past = list[tuple[np.ndarray, np.ndarray]]
"""Keys and values of tokens before, a pair for each layer."""


def trunk(parameters: Parameters, ids: np.ndarray, config: ModelConfig, past: Past | None = None) -> tuple:
    """ids (B, T) -> final vectors x (B, T, D): the model without its head."""
    start = past[0][0].shape[2] if past else 0
    x, saved_embed = embed(ids, parameters["embedding"])
    x, saved_positions, turn = placed(x, parameters, config, start)
    saved_blocks = []
    for layer in range(config.n_layers):
        x, saved = block(x, part(parameters, f"blocks.{layer}."), config, turn, past[layer] if past else None)
        saved_blocks.append(saved)
    norm, norm_backward = NORMS[config.norm]
    x, saved_norm = norm(x, part(parameters, "final."))
    return x, (saved_embed, saved_positions, saved_blocks, norm_backward, saved_norm)


def trunk_backward(dx: np.ndarray, saved: tuple) -> Parameters:
    """Gradients of all parameters, by name; that of the embedding is the lookup's alone."""
    saved_embed, saved_positions, saved_blocks, norm_backward, saved_norm = saved
    dx, final = norm_backward(dx, saved_norm)
    gradients: Parameters = prefixed("final.", final)
    for layer, saved_block in reversed(list(enumerate(saved_blocks))):
        dx, inside = block_backward(dx, saved_block)
        gradients |= prefixed(f"blocks.{layer}.", inside)
    if saved_positions:
        dx, gradients["positions"] = learned_positions_backward(dx, saved_positions)
    gradients["embedding"] = embed_backward(dx, saved_embed)
    return gradients


def forward(
    parameters: Parameters, ids: np.ndarray, config: ModelConfig, past: Past | None = None
) -> tuple[np.ndarray, tuple]:
    """ids (B, T) -> logits (B, T, W). past: of the tokens before these."""
    x, saved_trunk = trunk(parameters, ids, config, past)
    logits = (flat(x) @ parameters["embedding"].T).reshape(*ids.shape, -1)
    return logits, (saved_trunk, x, parameters["embedding"])


def backward(dlogits: np.ndarray, saved: tuple) -> Parameters:
    """Gradients of all parameters, by name."""
    saved_trunk, x, embedding = saved
    dlogits = flat(dlogits)
    gradients = trunk_backward((dlogits @ embedding).reshape(x.shape), saved_trunk)
    gradients["embedding"] += dlogits.T @ flat(x)
    return gradients


def loss_and_gradients(
    parameters: Parameters,
    ids: np.ndarray,
    targets: np.ndarray,
    config: ModelConfig,
    weights: np.ndarray | None = None,
) -> tuple[np.floating, Parameters]:
    """One step of everything: forward, loss, backward. ids and targets (B, T)."""
    logits, saved = forward(parameters, ids, config)
    loss, saved_loss = cross_entropy(logits, targets, weights)
    return loss, backward(cross_entropy_backward(saved_loss), saved)


def attentions(saved: tuple) -> list[tuple]:
    """What the attention of each layer saved in `forward`: read it with `keys_values` and `weights`."""
    _, _, saved_blocks, *_ = saved[0]
    return [attention_of_block(saved_block) for saved_block in saved_blocks]


if __name__ == "__main__":
    # The gradient of the logits: what was said minus what was true.
    logits = np.array([[[2.0, 1.0, 0.0]]])
    loss, saved = cross_entropy(logits, np.array([[1]]))
    print(f"loss {loss:.4f}, probabilities {saved[0].round(3)}, gradient {cross_entropy_backward(saved)[0].round(3)}")

    # A model of the smallest kind, and one sentence it shall learn by heart: downhill, a small step at a time.
    from positronic_course.ch01_tokenizers import CharTokenizer

    text = "The lamp is on the hill, and the town is by the sea."
    tokenizer = CharTokenizer.learn(text)
    config = ModelConfig(vocab_size=len(tokenizer), d_model=32, n_heads=2, n_layers=2, d_hidden=64)
    rng = np.random.default_rng(0)
    D, F = config.d_model, config.d_hidden
    inside = {f"attention.{name}": (D, D) for name in ("query", "key", "value", "out")}
    inside |= {"feed.up": (D, F), "feed.gate": (D, F), "feed.down": (F, D)}
    parameters = {"embedding": rng.normal(scale=0.1, size=(config.vocab_size, D)), "final.gain": np.ones(D)}
    for layer in range(config.n_layers):
        drawn = {name: rng.normal(scale=0.1, size=shape) for name, shape in inside.items()}
        drawn |= {"attention_norm.gain": np.ones(D), "feed_norm.gain": np.ones(D)}
        parameters |= prefixed(f"blocks.{layer}.", drawn)
    ids = tokenizer.encode(text)[None]
    print(f"log W = {np.log(config.vocab_size):.3f}")
    for step in range(201):
        loss, gradients = loss_and_gradients(parameters, ids[:, :-1], ids[:, 1:], config)
        if step % 50 == 0:
            print(f"step {step:3}: {loss:.3f} nats a token")
        for name, gradient in gradients.items():
            parameters[name] -= 0.3 * gradient
