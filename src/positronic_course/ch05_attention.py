"""Attention.

So far every token was alone. Attention lets a token read from the tokens before it, and choose what to read by
content. Each token makes three vectors of width K: a query q, what it looks for; a key k, what it can be found by; a
value v, what is read if it is found.

    z[t, s] = q[t] . k[s] / sqrt(K)       score of token s for token t; only s <= t, the future is not known yet
    p[t, s] = exp(z[t, s]) / sum_j exp(z[t, j])                              softmax: weights that sum to 1
    o[t]    = sum_s p[t, s] v[s]

Shapes: q (B, H, T, K), k and v (B, H, S, K), z and p (B, H, T, S), o like q. H heads do this side by side, each with
its own K = D / H columns. S >= T: the queries are the last T of S tokens, so row t of T stands at place S - T + t.

*By numbers*: K = 4, q = (2, 0, 0, 0), and two keys (1, 0, 0, 0) and (0, 1, 0, 0). z = (2 / 2, 0) = (1, 0), and p =
(0.731, 0.269). With the values 10 and 20 the token reads o = 7.31 + 5.38 = 12.69.

Why sqrt(K)? Let q and k have independent entries of mean 0 and variance 1. Their dot product has K terms of variance
1, so its standard deviation is sqrt(K). Divided by that, scores are about as large as 1 and no weight takes all.

Backward
--------
*By numbers*, with that p and dp = (1, 0): the mean of dp under p is 0.731, so dz = (0.731 * (1 - 0.731), 0.269 * (0 -
0.731)) = (0.197, -0.197). What one score gains, the other loses.

From o = p v, a linear map of each:      dp = do v^T        dv = p^T do
From softmax, one row of it. p_i = exp(z_i) / sum_j exp(z_j) moves with z_j by [i = j] p_i - p_i p_j, so

    dz_j = sum_i dp_i ([i = j] p_i - p_i p_j) = p_j (dp_j - sum_i dp_i p_i)

A weight of 0 has no gradient: so the future, whose weight is 0, gets none, and the mask needs no backward of its own.
From z = q k^T / sqrt(K):                dq = dz k / sqrt(K)        dk = dz^T q / sqrt(K)

Many heads
----------
One matrix each makes all queries, keys and values, and one matrix `out` mixes what the heads have read:

    q, k, v = split(x query), split(x key), split(x value)    split: (B, T, D) -> (B, H, T, K), merge: the way back
    q, k    = rotate(q), rotate(k)                             where positions are rotary
    y       = merge(attention(q, k, v)) out

x was used three times, so its three gradients add up.

Hardware: softmax does not change when one number is taken from all scores of a row. Taking the largest makes every
exponent 0 or less: nothing overflows, and the sum is at least 1. The mask adds -infinity, which IEEE 754 carries
through the subtraction to exp(-infinity) = 0 exactly; a row whose scores all are -infinity would give infinity -
infinity, not a number, but every token may look at itself. p has T S numbers a head: it is what fills the memory at
long contexts. Fused kernels never write it down and compute it again on the way back; here it is kept, because we
want to look at it.
"""

import numpy as np
from numpy.typing import DTypeLike

from positronic_course.ch02_embeddings import rotate, rotate_backward, rotation
from positronic_course.ch03_linear_and_norms import Parameters, linear, linear_backward

Turn = tuple[np.ndarray, np.ndarray]
"""cos and sin (T, K/2) of `rotation`."""


def softmax(z: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    p = z - z.max(axis=-1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def softmax_backward(dp: np.ndarray, p: np.ndarray) -> np.ndarray:
    """dz from dp and the result p."""
    dz = dp - np.einsum("...s,...s->...", dp, p)[..., None]
    dz *= p
    return dz


def causal_mask(T: int, S: int, dtype: DTypeLike) -> np.ndarray:
    """(T, S), added to the scores: 0 where row t, at place S - T + t, may look; -infinity at the places after it."""
    return np.triu(np.full((T, S), -np.inf, dtype), k=S - T + 1)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, tuple]:
    """q (B, H, T, K), k and v (B, H, S, K) -> o (B, H, T, K)."""
    z = q @ k.swapaxes(-1, -2)
    z *= q.shape[-1] ** -0.5
    z += causal_mask(z.shape[-2], z.shape[-1], z.dtype)
    p = softmax(z)
    return p @ v, (q, k, v, p)


def attention_backward(do: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dq, dk, dv."""
    q, k, v, p = saved
    dv = p.swapaxes(-1, -2) @ do
    dz = softmax_backward(do @ v.swapaxes(-1, -2), p)
    dz *= q.shape[-1] ** -0.5
    return dz @ k, dz.swapaxes(-1, -2) @ q, dv


def split_heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    """(B, T, D) -> (B, H, T, K). Nothing is copied, so its backward is `merge_heads`."""
    B, T, D = x.shape
    return x.reshape(B, T, n_heads, D // n_heads).swapaxes(1, 2)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """(B, H, T, K) -> (B, T, D); its backward is `split_heads`."""
    B, H, T, K = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * K)


def multi_head(
    x: np.ndarray,
    parameters: Parameters,
    n_heads: int,
    turn: Turn | None = None,
    past: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, tuple]:
    """x (B, T, D) -> y (B, T, D). parameters: query, key, value and out, each (D, D).

    turn: the rotation of these T tokens, or None. past: keys and values (B, H, S - T, K) of the tokens before them, as
    `keys_values` gave them; backward ends at these T tokens and sends nothing into the past.
    """
    q, saved_q = linear(x, parameters["query"])
    k, saved_k = linear(x, parameters["key"])
    v, saved_v = linear(x, parameters["value"])
    q, k, v = (split_heads(heads, n_heads) for heads in (q, k, v))
    if turn is not None:
        q, k = rotate(q, *turn), rotate(k, *turn)
    if past is not None:
        k, v = (np.concatenate(pair, axis=2) for pair in zip(past, (k, v), strict=True))
    o, saved_attention = attention(q, k, v)
    y, saved_out = linear(merge_heads(o), parameters["out"])
    return y, (saved_q, saved_k, saved_v, turn, saved_attention, saved_out)


def multi_head_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, Parameters]:
    """dx, gradients of the four matrices."""
    saved_q, saved_k, saved_v, turn, saved_attention, saved_out = saved
    do, dout, _ = linear_backward(dy, saved_out)
    q = saved_attention[0]
    n_heads, T = q.shape[1:3]
    dq, dk, dv = attention_backward(split_heads(do, n_heads), saved_attention)
    dk, dv = dk[:, :, -T:], dv[:, :, -T:]
    if turn is not None:
        dq, dk = rotate_backward(dq, *turn), rotate_backward(dk, *turn)
    dx, dquery, _ = linear_backward(merge_heads(dq), saved_q)
    dx_k, dkey, _ = linear_backward(merge_heads(dk), saved_k)
    dx_v, dvalue, _ = linear_backward(merge_heads(dv), saved_v)
    dx += dx_k
    dx += dx_v
    return dx, {"query": dquery, "key": dkey, "value": dvalue, "out": dout}


def keys_values(saved: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values (B, H, S, K) of a call of `multi_head`, past included and turned: the `past` of the next call."""
    _, k, v, _ = saved[4]
    return k, v


def weights(saved: tuple) -> np.ndarray:
    """p (B, H, T, S) of a call of `multi_head`: how much each token read from each other."""
    return saved[4][3]


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    B, T, D, H = 1, 6, 32, 2
    parameters = {name: rng.normal(scale=D**-0.5, size=(D, D)) for name in ("query", "key", "value", "out")}
    x = rng.normal(size=(B, T, D))

    # Rows are readers, columns what they read. The upper triangle is the future. Each row sums to 1.
    y, saved = multi_head(x, parameters, H, rotation(np.arange(T), D // H, dtype=np.float64))
    print(weights(saved)[0, 0].round(2), "\nsums:", weights(saved)[0, 0].sum(axis=1))

    # The gradient of y[2] knows nothing of tokens 3, 4, 5.
    dy = np.zeros_like(y)
    dy[:, 2] = 1
    dx, _ = multi_head_backward(dy, saved)
    print("gradient of y[2] by token:", np.abs(dx).sum(axis=(0, 2)).round(2))

    # Without sqrt(K) one weight of a row takes nearly all when heads are wide, and the slope p (1 - p) is small.
    q, k = rng.normal(size=(2, 200, 256))
    for name, scale in (("plain", 1.0), ("over sqrt(K)", 256**-0.5)):
        weight = softmax(q @ k.T * scale)
        slope = (weight * (1 - weight)).mean()
        print(f"{name:13} largest weight of a row {weight.max(axis=1).mean():.2f}, mean slope {slope:.5f}")
