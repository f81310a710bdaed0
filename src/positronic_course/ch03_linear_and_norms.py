"""Linear maps and norms.

Linear
------
The workhorse: the vector of every token is multiplied by one matrix of weights w (D_in, D_out), and a bias is added.

    y[t, j] = sum_i x[t, i] w[i, j] + bias[j]         t counts the B T tokens of all rows

*By numbers*: x = (1, 2) and w with the rows (3, 4) and (5, 6) give y = (1 * 3 + 2 * 5, 1 * 4 + 2 * 6) = (13, 16). Let
dy = (1, -1). Then dx = (3 - 4, 5 - 6) = (-1, -1), and dw has the rows 1 dy = (1, -1) and 2 dy = (2, -2).

Backward, from the sum itself. How does y[t, j] move with x[t, i]? By w[i, j]. With w[i, j]? By x[t, i]. With bias[j]?
By 1. The chain rule adds up dy times that over everything that moved:

    dx[t, i] = sum_j dy[t, j] w[i, j]       dx = dy w^T
    dw[i, j] = sum_t x[t, i] dy[t, j]       dw = x^T dy
    dbias[j] = sum_t dy[t, j]

The shapes leave no other choice: (B T, D_in) = (B T, D_out)(D_out, D_in). Three matrix products of the same size: a
step of training costs three times what the forward pass costs.

Norms
-----
Through many layers numbers grow or fade. A norm puts each token's vector back to a known size before it is used.

*LayerNorm*: centre it, divide by its standard deviation sigma, then let the model choose gain and bias of each column:

    c = x - mean(x)    sigma = sqrt(mean(c^2) + 1e-5)    h = c / sigma    y = gain h + bias   means over the D columns

*RMSNorm* does not centre:    rms = sqrt(mean(x^2) + 1e-6)    h = x / rms    y = gain h

*By numbers*: x = (3, 4) has the mean square 12.5, so rms = 3.536 and h = (0.849, 1.131); (30, 40) gives the same h.
Let dh = (1, 0): mean(dh h) = 0.424 and dx = ((1 - 0.849 * 0.424) / 3.536, -1.131 * 0.424 / 3.536) = (0.181, -0.136).
Along x that is 3 * 0.181 - 4 * 0.136 = 0.

Backward. They work column by column: dgain = sum over tokens of dy h, dbias = sum of dy, dh = gain dy. Then from h to
x. For RMSNorm h_i = x_i / rms, and rms depends on every x_j by x_j / (D rms) = h_j / D. So, with [i = j] for 1 where
i = j and 0 elsewhere,

    h_i by x_j: [i = j] / rms - x_i / rms^2 * h_j / D = ([i = j] - h_i h_j / D) / rms
    dx_j = sum_i dh_i ([i = j] - h_i h_j / D) / rms = (dh_j - h_j mean(dh h)) / rms

Read it: making x longer does not change h, so the part of dh that points along h is taken out. LayerNorm is the same
with one thing more that changes nothing, adding a constant to x, so that part, the mean of dh, is taken out as well:

    h_i by x_j: ([i = j] - 1/D - h_i h_j / D) / sigma
    dx_j = (dh_j - mean(dh) - h_j mean(dh h)) / sigma

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
    """What lies below the prefix, under what is left of its names: part(tree, "norm.")["gain"] is tree["norm.gain"]."""
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def prefixed(prefix: str, parameters: Parameters) -> Parameters:
    """The way back: the prefix before every name."""
    return {prefix + name: value for name, value in parameters.items()}


def flat(x: np.ndarray) -> np.ndarray:
    """(..., D) -> (n, D), n tokens: one large matrix product is faster than many small ones."""
    return x.reshape(-1, x.shape[-1])


def linear(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> tuple[np.ndarray, tuple]:
    """x (..., D_in) -> y (..., D_out)."""
    y = flat(x) @ w
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], -1), (x, w, bias is not None)


def linear_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """dx, dw, dbias; dbias is None where there was no bias."""
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
    sigma = np.sqrt(mean_of_product(h, h) + 1e-5)
    h /= sigma
    return h * gain + bias, (h, sigma, gain)


def layer_norm_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dgain, dbias."""
    h, sigma, gain = saved
    dgain = np.einsum("nd,nd->d", flat(dy), flat(h))
    dbias = flat(dy).sum(axis=0)
    dx = dy * gain
    along, mean = mean_of_product(dx, h), dx.mean(axis=-1, keepdims=True)
    dx -= mean
    dx -= h * along
    dx /= sigma
    return dx, dgain, dbias


def rms_norm(x: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, tuple]:
    """x (..., D) -> y (..., D)."""
    rms = np.sqrt(mean_of_product(x, x) + 1e-6)
    h = x / rms
    return h * gain, (h, rms, gain)


def rms_norm_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray]:
    """dx, dgain."""
    h, rms, gain = saved
    dgain = np.einsum("nd,nd->d", flat(dy), flat(h))
    dx = dy * gain
    dx -= h * mean_of_product(dx, h)
    dx /= rms
    return dx, dgain


def _layer(x: np.ndarray, own: Parameters) -> tuple[np.ndarray, tuple]:
    return layer_norm(x, own["gain"], own["bias"])


def _layer_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    dx, dgain, dbias = layer_norm_backward(dy, saved)
    return dx, {"gain": dgain, "bias": dbias}


def _rms(x: np.ndarray, own: Parameters) -> tuple[np.ndarray, tuple]:
    return rms_norm(x, own["gain"])


def _rms_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    dx, dgain = rms_norm_backward(dy, saved)
    return dx, {"gain": dgain}


NORMS: dict[str, tuple[Callable, Callable]] = {"rms": (_rms, _rms_backward), "layer": (_layer, _layer_backward)}
"""Norm and backward, parameters in a dict: f(x, parameters) -> y, saved; f_backward(dy, saved) -> dx, gradients."""


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
