"""From attention to oscillators.

The block has two halves: attention lets tokens speak with each other, the feed-forward half works on each token alone.
Here is another half of the second kind. It asks its numbers not to pass through a bend such as ReLU, but to *move*.

    x (..., D)        the stream; every token is treated alone, so the leading axes may be anything
    R rings of n      N = R n oscillators; oscillator i of ring r has a phase theta[r, i], an angle in radians
    omega             its own frequency, radians per unit of time
    K (R, R)          how strongly ring r is pulled by ring s, learnt
    lag (R,)          the angle by which a ring wants to stay behind, learnt

The definition, pair by pair
----------------------------
Kuramoto's model: everybody turns at a speed of their own and is pulled towards everybody else.

    d theta_i / dt = omega_i + sum over rings s of K[r, s] * mean over j in s of sin(theta_j - theta_i - lag_r)

The pull is zero when i is where it wants to be, and changes sign on the other side: alike phases stay together. We take
a few *Euler steps*: theta <- theta + dt * velocity.

Why it costs so little
----------------------
Attention also compares all pairs. Its weights are exp(q . k), and no product of one factor for q and another for k makes
an exponential of their product: all T * T pairs have to be worked out. The sine of a difference is such a product,

    sin(theta_j - a) = sin theta_j cos a - cos theta_j sin a

so the sum over j can be taken first. Write the means over ring s as C_s = mean cos theta_j and S_s = mean sin theta_j:

    Gx = K C                      Gy = K S                            (R,)  what each ring hears
    Hx = cos lag Gx + sin lag Gy  Hy = cos lag Gy - sin lag Gx        (R,)  the same turned back by the lag: the *mean field*
    velocity_i = omega_i + Hy cos theta_i - Hx sin theta_i            r the ring of i

N + R * R operations a step in place of N * N, and exactly the same number. (C, S) is an arrow of length at most 1: the
*order* of the ring, 1 when all its oscillators stand together.

In and out
----------
One matrix makes phases and frequencies of the stream, tanh bounds the frequencies, and one matrix reads where the phases
came to rest. Angles are read by cosine and sine, which know nothing of whole turns:

    theta, a = the halves of x @ bank       omega = tanh a                          bank (D, 2N)
    y        = [cos theta_end, sin theta_end] @ out                                 out (2N, D)

Backward
--------
Let u = dL/d theta after a step (the *adjoint*), and walk the steps from the last to the first. Within one step theta
acts in three ways: it stays (u goes through), it turns its own pull, and it is part of its ring's mean.

    dHy = dt * sum over the ring of u cos theta        dHx = -dt * sum over the ring of u sin theta
    dlag = dHx Hy - dHy Hx                             because dHx/dlag = Hy and dHy/dlag = -Hx
    dGx = cos lag dHx - sin lag dHy                    dGy = sin lag dHx + cos lag dHy
    dK  = dGx C^T + dGy S^T                            dC = K^T dGx, dS = K^T dGy
    domega += dt u
    u <- u - dt u (Hy sin theta + Hx cos theta) + (dS cos theta - dC sin theta) / n

Forward keeps the phases before each step, and nothing else; the fields are cheap enough to be worked out again.

Hardware: a phase in float32 has about 2^-24 relative error, 1e-6 radians at 8 radians; in bfloat16, with 8 bits, it
would be 0.03 radians, which moves its sine in the second digit. Phases therefore stay in float32 even where matrices do
not. An angle is also a natural fixed-point number: let an unsigned integer of 16 bits count 1/65536 of a turn, and
overflow, elsewhere an error, is exactly the wrap from one turn into the next.

Source: Kuramoto 1975; the lag is from Sakaguchi and Kuramoto 1986.
"""

import numpy as np

from positronic_course.ch03_linear_and_norms import Parameters, flat, linear, linear_backward

Field = tuple[np.ndarray, np.ndarray]
"""Two numbers a ring: what it feels along the x and along the y axis, each (..., R)."""


def velocity_by_pairs(theta: np.ndarray, omega: np.ndarray, coupling: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """The definition: theta, omega (..., R, n) -> (..., R, n), every pair of oscillators by itself."""
    own, other = theta[..., :, None, :, None], theta[..., None, :, None, :]  # (..., R, 1, n, 1) and (..., 1, R, 1, n)
    pull = np.sin(other - own - lag[:, None, None, None]).mean(-1)  # (..., R, R, n): ring r by ring s, at i
    return omega + (coupling[:, :, None] * pull).sum(-2)


def order(theta: np.ndarray) -> Field:
    """C and S (..., R), the mean cosine and sine of each ring's phases."""
    return np.cos(theta).mean(-1), np.sin(theta).mean(-1)


def mean_field(C: np.ndarray, S: np.ndarray, coupling: np.ndarray, lag: np.ndarray) -> Field:
    """Hx and Hy (..., R)."""
    Gx, Gy = C @ coupling.T, S @ coupling.T
    return np.cos(lag) * Gx + np.sin(lag) * Gy, np.cos(lag) * Gy - np.sin(lag) * Gx


def velocity(theta: np.ndarray, omega: np.ndarray, coupling: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """The same as `velocity_by_pairs`, through the mean field."""
    Hx, Hy = mean_field(*order(theta), coupling, lag)
    return omega + Hy[..., None] * np.cos(theta) - Hx[..., None] * np.sin(theta)


def integrate(
    theta: np.ndarray, omega: np.ndarray, coupling: np.ndarray, lag: np.ndarray, steps: int = 4, dt: float = 0.5
) -> tuple[np.ndarray, tuple]:
    """Phases (..., R, n) after all steps, never wrapped."""
    before = []
    for _ in range(steps):
        before.append(theta)
        theta = theta + dt * velocity(theta, omega, coupling, lag)
    return theta, (before, coupling, lag, dt)


def integrate_backward(du: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """dL/d of the phases after the last step -> dtheta (the first phases), domega, dcoupling, dlag."""
    before, coupling, lag, dt = saved
    u, n = du, du.shape[-1]
    domega, dcoupling, dlag = np.zeros_like(u), np.zeros_like(coupling), np.zeros_like(lag)
    for theta in reversed(before):
        cos, sin = np.cos(theta), np.sin(theta)
        C, S = cos.mean(-1), sin.mean(-1)
        Hx, Hy = mean_field(C, S, coupling, lag)
        dHx, dHy = -dt * (u * sin).sum(-1), dt * (u * cos).sum(-1)
        dlag += flat(dHx * Hy - dHy * Hx).sum(0)
        dGx = np.cos(lag) * dHx - np.sin(lag) * dHy
        dGy = np.sin(lag) * dHx + np.cos(lag) * dHy
        dcoupling += flat(dGx).T @ flat(C) + flat(dGy).T @ flat(S)
        dC, dS = dGx @ coupling, dGy @ coupling
        domega += dt * u
        through_own_pull = dt * u * (Hy[..., None] * sin + Hx[..., None] * cos)
        through_the_mean = (dS[..., None] * cos - dC[..., None] * sin) / n
        u = u - through_own_pull + through_the_mean
    return u, domega, dcoupling, dlag


def each(phases: np.ndarray) -> np.ndarray:
    """(..., R, n) -> (..., N): all oscillators side by side, ring after ring."""
    return phases.reshape(*phases.shape[:-2], -1)


def oscillators(x: np.ndarray, p: Parameters, steps: int = 4, dt: float = 0.5) -> tuple[np.ndarray, tuple]:
    """x (..., D) -> y (..., D): in by `bank`, some steps under `coupling` and `lag`, out by `out`."""
    R = len(p["lag"])
    both, saved_bank = linear(x, p["bank"])  # (..., 2N)
    first, a = (half.reshape(*x.shape[:-1], R, -1) for half in np.split(both, 2, axis=-1))
    omega = np.tanh(a)
    theta, saved_steps = integrate(first, omega, p["coupling"], p["lag"], steps, dt)
    read = np.concatenate([each(np.cos(theta)), each(np.sin(theta))], -1)  # (..., 2N)
    y, saved_out = linear(read, p["out"])
    return y, (saved_bank, omega, saved_steps, theta, read, saved_out)


def oscillators_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    """dL/dy -> dx and the gradients of bank, coupling, lag, out."""
    saved_bank, omega, saved_steps, theta, read, saved_out = saved
    dread, dout, _ = linear_backward(dy, saved_out)
    cos, sin = np.split(read, 2, axis=-1)
    dcos, dsin = np.split(dread, 2, axis=-1)
    du = (dsin * cos - dcos * sin).reshape(theta.shape)
    dfirst, domega, dcoupling, dlag = integrate_backward(du, saved_steps)
    da = domega * (1 - omega * omega)
    dboth = np.concatenate([each(dfirst), each(da)], -1)
    dx, dbank, _ = linear_backward(dboth, saved_bank)
    return dx, {"bank": dbank, "coupling": dcoupling, "lag": dlag, "out": dout}
