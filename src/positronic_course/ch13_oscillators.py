"""From attention to oscillators.

The block has two halves: attention lets tokens speak with each other, the feed-forward half works on each token alone.
Here is another half of the second kind. It asks its numbers not to pass through a bend such as ReLU, but to *move*.

    x (..., D)        the stream; every token is treated alone, so the leading axes may be anything
    R rings of n      N = R n oscillators; oscillator i of ring r has a phase theta[r, i], an angle in radians
    omega             its own frequency, radians per unit of time
    J (R, R)          coupling: how strongly ring r is pulled by ring r', learnt
    lag (R,)          the angle by which a ring wants to stay behind, learnt

The definition, pair by pair
----------------------------
Kuramoto's model: everybody turns at a speed of their own and is pulled towards everybody else.

    d theta_i / dt = omega_i + sum over rings r' of J[r, r'] * mean over j in r' of sin(theta_j - theta_i - lag_r)

*By numbers*: one ring of two, at 0 and at a quarter turn, J = 2, no lag. The first is pulled by 2 * (sin 0 + sin(pi /
2)) / 2 = 1, the second by 2 * (sin(-pi / 2) + sin 0) / 2 = -1: they meet.

The pull is zero when i is where it wants to be, and changes sign on the other side: alike phases stay together. We take
a few *Euler steps* of length dt: theta <- theta + dt * velocity.

Why it costs so little
----------------------
Attention also compares all pairs. Its weights are exp(q . k), and no product of one factor for q and another for k
makes an exponential of their product: all T * T pairs have to be worked out. The sine of a difference is a sum of
two such products,

    sin(theta_j - a) = sin theta_j cos a - cos theta_j sin a

so the sum over j can be taken first. Write the means over a ring as X_r = mean cos theta_j and Y_r = mean sin theta_j:

    Gx = J X                      Gy = J Y                            (R,)  what each ring hears
    Px = cos lag Gx + sin lag Gy  Py = cos lag Gy - sin lag Gx        (R,)  turned back by the lag: the *mean field*
    velocity_i = omega_i + Py cos theta_i - Px sin theta_i            r the ring of i

*By numbers*, the same ring: X = 1/2, Y = 1/2, so Px = Py = 2 / 2 = 1. The first feels 1 * cos 0 - 1 * sin 0 = 1, the
second 1 * cos(pi / 2) - 1 * sin(pi / 2) = -1, as pair by pair.

N + R * R operations a step in place of N * N, and the same number but for rounding. (X, Y) is an arrow of length at
most 1: the *order* of the ring, 1 when all its oscillators stand together.

In and out
----------
One matrix makes phases and frequencies of the stream, tanh bounds the frequencies, and one matrix reads where the
phases came to rest. Angles are read by cosine and sine, which know nothing of whole turns:

    theta, raw = the halves of x @ bank     omega = tanh raw                        bank (D, 2N)
    y        = [cos theta_end, sin theta_end] @ out                                 out (2N, D)

Backward
--------
Take dtheta, here called the *adjoint*, after a step, and walk the steps from the last to the first. Within one step
theta acts in three ways: it stays (dtheta goes through), it turns its own pull, and it is part of its ring's mean.

    dPy = dt * sum over the ring of dtheta cos theta   dPx = -dt * sum over the ring of dtheta sin theta
    dlag = dPx Py - dPy Px                             because dPx/dlag = Py and dPy/dlag = -Px
    dGx = cos lag dPx - sin lag dPy                    dGy = sin lag dPx + cos lag dPy
    dJ  = dGx X^T + dGy Y^T                            dX = J^T dGx, dY = J^T dGy
    domega += dt dtheta
    dtheta <- dtheta - dt dtheta (Py sin theta + Px cos theta) + (dY cos theta - dX sin theta) / n

Forward keeps the phases before each step, and nothing else; the fields are cheap enough to be worked out again.

In a block
----------
x -> y has the shape of feed_forward, so either can be the second half f of a block: x <- x + f(norm(x)). `bank` and
`out` are 4 D N numbers and the gated feed-forward half is 3 D F, so N = 3 F / 4 makes them equally large. Phases
should begin spread over the circle, or nothing can gather: a standard deviation of sigma radians leaves a large
ring an order of exp(-sigma^2 / 2), 1/5 at sigma = 1.8.

Hardware: a phase in float32 has about 2^-24 relative error, 1e-6 radians at 8 radians; in bfloat16, with 8 bits, it
would be 0.03 radians, which moves its sine in the second digit. Phases therefore stay in float32 even where matrices do
not. An angle is also a natural fixed-point number: let an unsigned integer of 16 bits count 1/65536 of a turn, and
overflow, elsewhere an error, is exactly the wrap from one turn into the next.

Source: Kuramoto 1975; the lag is from Sakaguchi and Kuramoto 1986.
"""

from collections.abc import Callable

import numpy as np

from positronic_course.ch03_linear_and_norms import NORMS, Parameters, flat, linear, linear_backward, part, prefixed
from positronic_course.ch05_attention import Turn, multi_head, multi_head_backward
from positronic_course.ch06_block import feed_forward, feed_forward_backward

Field = tuple[np.ndarray, np.ndarray]
"""Two numbers a ring: what it feels along the x and along the y axis, each (..., R)."""


def velocity_by_pairs(theta: np.ndarray, omega: np.ndarray, coupling: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """The definition: theta, omega (..., R, n) -> (..., R, n), every pair of oscillators by itself."""
    own, other = theta[..., :, None, :, None], theta[..., None, :, None, :]  # (..., R, 1, n, 1) and (..., 1, R, 1, n)
    pull = np.sin(other - own - lag[:, None, None, None]).mean(-1)  # (..., R, R, n): ring r by ring s, at i
    return omega + (coupling[:, :, None] * pull).sum(-2)


def order(theta: np.ndarray) -> Field:
    """X and Y (..., R), the mean cosine and sine of each ring's phases."""
    return np.cos(theta).mean(-1), np.sin(theta).mean(-1)


def mean_field(X: np.ndarray, Y: np.ndarray, coupling: np.ndarray, lag: np.ndarray) -> Field:
    """Px and Py (..., R)."""
    Gx, Gy = X @ coupling.T, Y @ coupling.T
    return np.cos(lag) * Gx + np.sin(lag) * Gy, np.cos(lag) * Gy - np.sin(lag) * Gx


def velocity(theta: np.ndarray, omega: np.ndarray, coupling: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """The same as `velocity_by_pairs`, through the mean field."""
    Px, Py = mean_field(*order(theta), coupling, lag)
    return omega + Py[..., None] * np.cos(theta) - Px[..., None] * np.sin(theta)


def integrate(
    theta: np.ndarray, omega: np.ndarray, coupling: np.ndarray, lag: np.ndarray, steps: int = 4, dt: float = 0.5
) -> tuple[np.ndarray, tuple]:
    """Phases (..., R, n) after all steps, never wrapped."""
    before = []
    for _ in range(steps):
        before.append(theta)
        theta = theta + dt * velocity(theta, omega, coupling, lag)
    return theta, (before, coupling, lag, dt)


def integrate_backward(dtheta: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """dtheta of the phases after the last step -> dtheta of the first, domega, dcoupling, dlag."""
    before, coupling, lag, dt = saved
    n = dtheta.shape[-1]
    domega, dcoupling, dlag = np.zeros_like(dtheta), np.zeros_like(coupling), np.zeros_like(lag)
    for theta in reversed(before):
        cos, sin = np.cos(theta), np.sin(theta)
        X, Y = cos.mean(-1), sin.mean(-1)
        Px, Py = mean_field(X, Y, coupling, lag)
        dPx, dPy = -dt * (dtheta * sin).sum(-1), dt * (dtheta * cos).sum(-1)
        dlag += flat(dPx * Py - dPy * Px).sum(0)
        dGx = np.cos(lag) * dPx - np.sin(lag) * dPy
        dGy = np.sin(lag) * dPx + np.cos(lag) * dPy
        dcoupling += flat(dGx).T @ flat(X) + flat(dGy).T @ flat(Y)
        dX, dY = dGx @ coupling, dGy @ coupling
        domega += dt * dtheta
        through_own_pull = dt * dtheta * (Py[..., None] * sin + Px[..., None] * cos)
        through_the_mean = (dY[..., None] * cos - dX[..., None] * sin) / n
        dtheta = dtheta - through_own_pull + through_the_mean
    return dtheta, domega, dcoupling, dlag


def each(phases: np.ndarray) -> np.ndarray:
    """(..., R, n) -> (..., N): all oscillators side by side, ring after ring."""
    return phases.reshape(*phases.shape[:-2], -1)


def oscillators(x: np.ndarray, parameters: Parameters, steps: int = 4, dt: float = 0.5) -> tuple[np.ndarray, tuple]:
    """x (..., D) -> y (..., D): in by `bank`, some steps under `coupling` and `lag`, out by `out`."""
    R = len(parameters["lag"])
    both, saved_bank = linear(x, parameters["bank"])  # (..., 2N)
    first, raw = (half.reshape(*x.shape[:-1], R, -1) for half in np.split(both, 2, axis=-1))
    omega = np.tanh(raw)
    theta, saved_steps = integrate(first, omega, parameters["coupling"], parameters["lag"], steps, dt)
    read = np.concatenate([each(np.cos(theta)), each(np.sin(theta))], -1)  # (..., 2N)
    y, saved_out = linear(read, parameters["out"])
    return y, (saved_bank, omega, saved_steps, theta, read, saved_out)


def oscillators_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    """dL/dy -> dx and the gradients of bank, coupling, lag, out."""
    saved_bank, omega, saved_steps, theta, read, saved_out = saved
    dread, dout, _ = linear_backward(dy, saved_out)
    cos, sin = np.split(read, 2, axis=-1)
    dcos, dsin = np.split(dread, 2, axis=-1)
    dtheta = (dsin * cos - dcos * sin).reshape(theta.shape)
    dfirst, domega, dcoupling, dlag = integrate_backward(dtheta, saved_steps)
    draw = domega * (1 - omega * omega)
    dboth = np.concatenate([each(dfirst), each(draw)], -1)
    dx, dbank, _ = linear_backward(dboth, saved_bank)
    return dx, {"bank": dbank, "coupling": dcoupling, "lag": dlag, "out": dout}


HALVES: dict[str, tuple[Callable, Callable]] = {
    "feed_forward": (feed_forward, feed_forward_backward),
    "oscillators": (oscillators, oscillators_backward),
}
"""What can be the second half of a block: f(x, parameters) -> y, saved; f_backward(dy, saved) -> dx, gradients."""


def initialise_rings(D: int, R: int, n: int, rng: np.random.Generator, dtype: type = np.float32) -> Parameters:
    """A new half for a stream of width D whose norm gives entries of variance 1: each ring pulls itself alone."""
    bank = rng.normal(size=(D, 2 * R * n)) * np.repeat([1.8, 0.5], R * n) / D**0.5
    out = rng.normal(scale=0.02, size=(2 * R * n, D))
    drawn = {"bank": bank, "coupling": np.eye(R), "lag": np.zeros(R), "out": out}
    return {name: value.astype(dtype) for name, value in drawn.items()}


def block(x: np.ndarray, parameters: Parameters, n_heads: int, turn: Turn, half: str) -> tuple[np.ndarray, tuple]:
    """The block of chapter 6 with RMSNorm, and any of HALVES as its second half."""
    norm, f = NORMS["rms"][0], HALVES[half][0]
    normed, saved_norm_1 = norm(x, part(parameters, "attention_norm."))
    read, saved_attention = multi_head(normed, part(parameters, "attention."), n_heads, turn)
    read += x
    normed, saved_norm_2 = norm(read, part(parameters, "feed_norm."))
    y, saved_half = f(normed, part(parameters, "feed."))
    return y + read, (half, saved_norm_1, saved_attention, saved_norm_2, saved_half)


def block_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    """dx, gradients."""
    half, saved_norm_1, saved_attention, saved_norm_2, saved_half = saved
    norm_backward, f_backward = NORMS["rms"][1], HALVES[half][1]
    dnormed, feed = f_backward(dy, saved_half)
    dread, feed_norm = norm_backward(dnormed, saved_norm_2)
    dread += dy
    dnormed, attention = multi_head_backward(dread, saved_attention)
    dx, attention_norm = norm_backward(dnormed, saved_norm_1)
    gradients = {"attention_norm": attention_norm, "attention": attention, "feed_norm": feed_norm, "feed": feed}
    return dx + dread, {name: g for parts in gradients for name, g in prefixed(f"{parts}.", gradients[parts]).items()}


if __name__ == "__main__":
    from importlib.resources import files

    from positronic_course.ch01_tokenizers import CharTokenizer
    from positronic_course.ch02_embeddings import embed, embed_backward, rotation
    from positronic_course.ch07_loss import cross_entropy, cross_entropy_backward
    from positronic_course.ch09_optimisers import Adam

    rng = np.random.default_rng(0)

    # A ring of 64 in time: each has its own speed, and yet they gather. Stronger coupling, more order.
    theta, omega = rng.uniform(-np.pi, np.pi, (1, 64)), rng.normal(scale=0.3, size=(1, 64))
    for J in (0.0, 0.5, 1.0, 2.0):
        end, _ = integrate(theta, omega, np.array([[J]]), np.zeros(1), steps=200, dt=0.1)
        print(f"J = {J}: order {np.hypot(*order(theta))[0]:.2f} -> {np.hypot(*order(end))[0]:.2f}")

    # One block, trained to foresee the next character, with either half, equally many parameters and the same rows.
    corpus = files("positronic_course").joinpath("corpus.txt").read_text("utf-8")
    tokenizer = CharTokenizer.learn(corpus)
    text, D, H, T = tokenizer.encode(corpus), 64, 4, 64
    turn = rotation(np.arange(T), D // H)
    for half in HALVES:
        rng = np.random.default_rng(1)

        shapes = {"embedding": (len(tokenizer), D)}
        shapes |= {f"attention.{name}": (D, D) for name in ("query", "key", "value", "out")}
        if half == "feed_forward":
            shapes |= {"feed.up": (D, 172), "feed.gate": (D, 172), "feed.down": (172, D)}
        parameters = {name: rng.normal(scale=0.05, size=shape).astype(np.float32) for name, shape in shapes.items()}
        parameters |= {f"{name}_norm.gain": np.ones(D, np.float32) for name in ("attention", "feed")}
        if half == "oscillators":
            parameters |= prefixed("feed.", initialise_rings(D, 4, 32, rng))
        adam, losses = Adam(parameters), []
        for step in range(120):
            rows = text[np.random.default_rng(step).integers(0, len(text) - T, 8)[:, None] + np.arange(T + 1)]
            x, saved_embed = embed(rows[:, :-1], parameters["embedding"])
            x, saved = block(x, parameters, H, turn, half)
            loss, saved_loss = cross_entropy((flat(x) @ parameters["embedding"].T).reshape(8, T, -1), rows[:, 1:])
            dlogits = flat(cross_entropy_backward(saved_loss))
            dx, gradients = block_backward((dlogits @ parameters["embedding"]).reshape(x.shape), saved)
            gradients["embedding"] = dlogits.T @ flat(x) + embed_backward(dx, saved_embed)
            adam.step(parameters, gradients, 3e-3)
            losses.append(float(loss))
        size = sum(value.size for value in parameters.values())
        print(f"{half:12} {size:,} parameters: {losses[0]:.2f} -> {np.mean(losses[-10:]):.2f} nats a character")
