"""The block and the residual stream.

Feed-forward
------------
After a token has read from others it thinks by itself: widen from D to F, an activation, and back.

    plain   y = f(x up) down                     f: an activation; up (D, F), down (F, D)
    gated   y = (f(x gate) * (x up)) down        gate (D, F): one half says how much of the other half passes

*By numbers*: a = 2 and b = 3 make c = 6. If L moves by 10 for each unit of c, it moves by 10 * 3 = 30 for each unit of
a, and by 10 * 2 = 20 for each of b.

With f = swish the gated form is known as SwiGLU. Its one new step is the product c = a b, number by number, of
a = f(x gate) and b = x up. Backward: da = dc b, db = dc a. x was used twice, so its two gradients add up.

Residual stream
---------------
A block does not replace its input, it adds to it:

    x <- x + multi_head(norm(x))
    x <- x + feed_forward(norm(x))

The stream x runs from the beginning to the end, and every part reads from it and writes into it. Backward:

    y = x + f(x)        dx = dy + f_backward(dy)

*By numbers*: four parts whose slope is 0.1 each. In a row, without the stream, 0.1^4 = 0.0001 of the gradient is left.
Beside the stream each has the slope 1 + 0.1, and 1.1^4 = 1.46 arrives.

The first dy passes unchanged, through any number of blocks. Without it the gradient would be a product of as many
factors as there are blocks: it would fade or explode, and forget its direction. The norm stands before each part
(pre-norm), inside the branch, so that nothing at all stands on the stream itself.

Hardware: to add many small numbers to a large one is what low precision does worst. bfloat16 has 8 bits, so 256 + 1
is 256 again, and a branch that writes less than 1/512 of what is there has not written. So training in 16 bits
keeps sums, and where it can the stream, in float32, and gives 16 bits to the factors of matrix products.
"""

from dataclasses import dataclass

import numpy as np

from positronic_course import CourseError
from positronic_course.ch03_linear_and_norms import NORMS, Parameters, linear, linear_backward, part, prefixed
from positronic_course.ch04_activations import ACTIVATIONS
from positronic_course.ch05_attention import Turn, multi_head, multi_head_backward


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What a block is made of. The sizes are those of its parameters."""

    d_model: int = 128
    """D, width of the stream."""
    n_heads: int = 4
    """H; each head is D / H wide."""
    d_hidden: int = 344
    """F, width inside the feed-forward part."""
    norm: str = "rms"
    """rms or layer."""
    activation: str = "swish"
    """swish, gelu or relu."""
    gated: bool = True
    """Feed-forward with a gate."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_hidden"):
            if getattr(self, name) < 1:
                raise CourseError(f"{name} is {getattr(self, name)}; use 1 or more.")
        if self.d_model % self.n_heads:
            raise CourseError(
                f"d_model {self.d_model} does not split into {self.n_heads} heads; use a multiple of n_heads."
            )
        check_choice("norm", self.norm, NORMS)
        check_choice("activation", self.activation, ACTIVATIONS)


def check_choice(name: str, value: str, known: dict | tuple) -> None:
    if value not in known:
        raise CourseError(f"{name} is {value!r}; choose one of {', '.join(known)}.")


def feed_forward(x: np.ndarray, parameters: Parameters, activation: str = "swish") -> tuple[np.ndarray, tuple]:
    """x (B, T, D) -> y (B, T, D). parameters: up and down, and gate if it is gated."""
    f, _ = ACTIVATIONS[activation]
    up, saved_up = linear(x, parameters["up"])
    if "gate" in parameters:
        gate, saved_gate = linear(x, parameters["gate"])
        acted, saved_f = f(gate)
        hidden = acted * up
    else:
        hidden, saved_f = f(up)
        acted = saved_gate = None
    y, saved_down = linear(hidden, parameters["down"])
    return y, (activation, acted, up, saved_f, saved_gate, saved_up, saved_down)


def feed_forward_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    """dx, gradients."""
    activation, acted, up, saved_f, saved_gate, saved_up, saved_down = saved
    _, f_backward = ACTIVATIONS[activation]
    dhidden, ddown, _ = linear_backward(dy, saved_down)
    if saved_gate is None:
        dx, dup, _ = linear_backward(f_backward(dhidden, saved_f), saved_up)
        return dx, {"up": dup, "down": ddown}
    dgate_out = f_backward(dhidden * up, saved_f)
    dhidden *= acted  # the gradient of x up, from here on
    dx, dup, _ = linear_backward(dhidden, saved_up)
    dx_gate, dgate, _ = linear_backward(dgate_out, saved_gate)
    dx += dx_gate
    return dx, {"up": dup, "gate": dgate, "down": ddown}


def block(
    x: np.ndarray,
    parameters: Parameters,
    config: BlockConfig,
    turn: Turn | None = None,
    past: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, tuple]:
    """x (B, T, D) -> y (B, T, D). Below attention_norm., attention., feed_norm., feed.; turn, past as in multi_head."""
    norm, norm_backward = NORMS[config.norm]
    normed, saved_norm_1 = norm(x, part(parameters, "attention_norm."))
    read, saved_attention = multi_head(normed, part(parameters, "attention."), config.n_heads, turn, past)
    read += x
    normed, saved_norm_2 = norm(read, part(parameters, "feed_norm."))
    y, saved_feed = feed_forward(normed, part(parameters, "feed."), config.activation)
    y += read
    return y, (norm_backward, saved_norm_1, saved_attention, saved_norm_2, saved_feed)


def block_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    """dx, gradients."""
    norm_backward, saved_norm_1, saved_attention, saved_norm_2, saved_feed = saved
    dnormed, feed = feed_forward_backward(dy, saved_feed)
    dread, feed_norm = norm_backward(dnormed, saved_norm_2)
    dread += dy
    dnormed, attention = multi_head_backward(dread, saved_attention)
    dx, attention_norm = norm_backward(dnormed, saved_norm_1)
    dx += dread
    return dx, {
        **prefixed("attention_norm.", attention_norm),
        **prefixed("attention.", attention),
        **prefixed("feed_norm.", feed_norm),
        **prefixed("feed.", feed),
    }


def attention_of_block(saved: tuple) -> tuple:
    """What the attention of a block saved: read it with `keys_values` and `weights` of the attention chapter."""
    return saved[2]


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    D, F = 32, 64
    norm, norm_backward = NORMS["rms"]
    gain = {"gain": np.ones(D)}

    # A gradient comes in at the end and goes back through 4, 16, 64 feed-forward parts, with the stream and without it.
    # What is left: its size, and how much of its direction (1 is the same direction, 0 none of it).
    start, end = rng.normal(size=(2, 1, 8, D))
    for n_parts in (4, 16, 64):
        scales = {"up": (D**-0.5, (D, F)), "down": (F**-0.5, (F, D))}
        parts = [{name: rng.normal(0, *scale) for name, scale in scales.items()} for _ in range(n_parts)]
        for title, stream in (("with the stream", 1), ("without it", 0)):
            x, kept = start, []
            for one in parts:
                normed, saved_norm = norm(x, gain)
                y, saved_feed = feed_forward(normed, one, "relu")
                x = stream * x + y
                kept.append((saved_norm, saved_feed))
            dx = end
            for saved_norm, saved_feed in reversed(kept):
                dnormed, _ = feed_forward_backward(dx, saved_feed)
                dx = stream * dx + norm_backward(dnormed, saved_norm)[0]
            size, along = np.linalg.norm(dx) / np.linalg.norm(end), (dx * end).sum() / np.linalg.norm(end)
            print(f"{n_parts:2} parts, {title:15}  size {size:8.2g}  direction {along / np.linalg.norm(dx):5.2f}")
