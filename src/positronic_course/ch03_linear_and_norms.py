"""Linear maps and norms.

Linear
------
The workhorse: the vector of every token is multiplied by one matrix of weights w (D_in, D_out), and a bias b is
added.

    y[n, j] = sum_i x[n, i] w[i, j] + b[j]            n counts the B T tokens of all rows

Backward, from the sum itself. How does y[n, j] move with x[n, i]? By w[i, j]. With w[i, j]? By x[n, i]. With b[j]?
By 1. The chain rule adds up dy times that over everything that moved:

    dx[n, i] = sum_j dy[n, j] w[i, j]       dx = dy w^T
    dw[i, j] = sum_n x[n, i] dy[n, j]       dw = x^T dy
    db[j]    = sum_n dy[n, j]

The shapes leave no other choice: (B T, D_in) = (B T, D_out)(D_out, D_in). Three matrix products of the same size: a
step of training costs three times what the forward pass costs.

Norms
-----
Through many layers numbers grow or fade. A norm puts each token's vector back to a known size before it is used.

*LayerNorm*: centre it, divide by its standard deviation, then let the model choose gain g and bias b for each column:

    m = mean(x)    s = sqrt(mean((x - m)^2) + 1e-5)    h = (x - m) / s    y = g h + b         means over the D columns

*RMSNorm* does not centre:    r = sqrt(mean(x^2) + 1e-6)    h = x / r    y = g h

Backward. g and b work column by column: dg = sum over tokens of dy h, db = sum of dy, dh = g dy. Then from h to x.
For RMSNorm h_i = x_i / r, and r itself depends on every x_j: dr/dx_j = x_j / (D r) = h_j / D. So, with [i = j] for 1
where i = j and 0 elsewhere,

    dh_i/dx_j = [i = j] / r - x_i / r^2 * h_j / D = ([i = j] - h_i h_j / D) / r
    dx_j      = sum_i dh_i dh_i/dx_j = (dh_j - h_j mean(dh h)) / r

Read it: making x longer does not change h, so the part of dh that points along h is taken out. LayerNorm is the same
with one thing more that changes nothing, adding a constant to x, so that part, the mean of dh, is taken out as well:

    dh_i/dx_j = ([i = j] - 1/D - h_i h_j / D) / s
    dx_j      = (dh_j - mean(dh) - h_j mean(dh h)) / s

Parameters
----------
The parameters of a model are one flat dict, name to array, and so are their gradients. Names are paths: `part` gives
what lies below "norm.", and `NORMS` has both norms in that form.

Hardware: a matrix product adds D_in terms for each number it makes, and every addition rounds: in float32 by up to
2^-24 of the sum so far. Added one by one, the bound on the error grows with the number of terms; added in pairs, and
the pairs in pairs, with its logarithm. BLAS, the library behind NumPy's matrix products, stands between: it keeps
several partial sums, and uses the fused multiply-add, which rounds a product and its addition once instead of twice.
The order of the additions is its own, so results differ in the last bits from machine to machine. Numbers of 16 bits
are multiplied in 16, but their sum must be kept in 32. The square in a norm asks for range: float16 ends at 65,504, so
the square of 256 is infinite; float32 and bfloat16 reach 3 10^38. The 1e-6 under the root keeps a vector of zeros
finite.
"""

from collections.abc import Callable

import numpy as np

Parameters = dict[str, np.ndarray]
"""Name to array; a gradient has the same names and shapes."""


def part(parameters: Parameters, prefix: str) -> Parameters:
    """What lies below the prefix, under what is left of its names: part(p, "norm.")["gain"] is p["norm.gain"]."""
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def prefixed(prefix: str, parameters: Parameters) -> Parameters:
    """The way back: the prefix before every name."""
    return {prefix + name: value for name, value in parameters.items()}


def flat(x: np.ndarray) -> np.ndarray:
    """(..., D) -> (n, D), n tokens: one large matrix product is faster than many small ones."""
    return x.reshape(-1, x.shape[-1])


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> tuple[np.ndarray, tuple]:
    """x (..., D_in) -> y (..., D_out)."""
    y = flat(x) @ w
    if b is not None:
        y += b
    return y.reshape(*x.shape[:-1], -1), (x, w, b is not None)


def linear_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """dx, dw, db; db is None where there was no bias."""
    x, w, has_bias = saved
    dy_flat = flat(dy)
    dx = (dy_flat @ w.T).reshape(x.shape)
    dw = flat(x).T @ dy_flat
    return dx, dw, dy_flat.sum(axis=0) if has_bias else None


def mean_of_product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean of x y over the last axis, kept: (..., D) -> (..., 1). The product is never written to memory."""
    return np.einsum("...d,...d->...", x, y)[..., None] / x.shape[-1]


def layer_norm(x: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, tuple]:
    """x (..., D) -> y (..., D)."""
    h = x - x.mean(axis=-1, keepdims=True)
    s = np.sqrt(mean_of_product(h, h) + 1e-5)
    h /= s
    return h * gain + bias, (h, s, gain)


def layer_norm_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dgain, dbias."""
    h, s, gain = saved
    dgain = np.einsum("nd,nd->d", flat(dy), flat(h))
    dbias = flat(dy).sum(axis=0)
    dx = dy * gain
    along, mean = mean_of_product(dx, h), dx.mean(axis=-1, keepdims=True)
    dx -= mean
    dx -= h * along
    dx /= s
    return dx, dgain, dbias


def rms_norm(x: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, tuple]:
    """x (..., D) -> y (..., D)."""
    r = np.sqrt(mean_of_product(x, x) + 1e-6)
    h = x / r
    return h * gain, (h, r, gain)


def rms_norm_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray]:
    """dx, dgain."""
    h, r, gain = saved
    dgain = np.einsum("nd,nd->d", flat(dy), flat(h))
    dx = dy * gain
    dx -= h * mean_of_product(dx, h)
    dx /= r
    return dx, dgain


def _layer(x: np.ndarray, p: Parameters) -> tuple[np.ndarray, tuple]:
    return layer_norm(x, p["gain"], p["bias"])


def _layer_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    dx, dgain, dbias = layer_norm_backward(dy, saved)
    return dx, {"gain": dgain, "bias": dbias}


def _rms(x: np.ndarray, p: Parameters) -> tuple[np.ndarray, tuple]:
    return rms_norm(x, p["gain"])


def _rms_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    dx, dgain = rms_norm_backward(dy, saved)
    return dx, {"gain": dgain}


NORMS: dict[str, tuple[Callable, Callable]] = {"rms": (_rms, _rms_backward), "layer": (_layer, _layer_backward)}
"""Norm and backward, parameters in a dict: f(x, p) -> y, saved; f_backward(dy, saved) -> dx, gradients."""


if __name__ == "__main__":
    rng = np.random.default_rng(0)

    # A gradient is a prediction: move one weight a little, and L moves by that much times the gradient.
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    y, saved = linear(x, w)
    dw = linear_backward(y, saved)[1]  # for L = sum(y^2) / 2, dL/dy = y
    moved = w.copy()
    moved[1, 0] += 1e-6
    measured = ((linear(x, moved)[0] ** 2).sum() - (y**2).sum()) / 2 / 1e-6
    print(f"dL/dw[1, 0]: derived {dw[1, 0]:.6f}, measured {measured:.6f}")

    # The norms undo any scale, and LayerNorm any shift. So no gradient points along them.
    x, one = rng.normal(size=(2, 8)), np.ones(8)
    y, saved = rms_norm(x, one)
    print(f"RMSNorm of x ten times longer moves by {np.abs(rms_norm(10 * x, one)[0] - y).max():.0e}")
    dx, _ = rms_norm_backward(rng.normal(size=y.shape), saved)
    print(f"its gradient: {np.abs(dx).sum():.2f} in all, {np.abs((dx * x).sum(axis=1)).max():.0e} along x")

    # The order of additions: ten million times 0.1 in float32, one after the other, and in pairs as NumPy's sum does.
    tenths = np.full(10_000_000, 0.1, np.float32)
    print(f"a million in tenths: {np.cumsum(tenths)[-1]:,.0f} one by one, {tenths.sum():,.0f} in pairs")
