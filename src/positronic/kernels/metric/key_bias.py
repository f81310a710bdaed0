"""Attention by distance as a dot product with a bias on each key: the definition but for rounding.

    softmax_s(z_ts) = softmax_s(2 alpha slope q_t . k_s - alpha slope |k_s|^2 + penalty_s)

Gradients included: what is left out is constant in s, and the gradients of a row's scores sum to zero. Rounding grows
with alpha slope |k|^2, of which scores are differences. Scores (B, H, T, S) are formed in float32 or wider, so that
nothing overflows in float16; where keys must be within a radius of the query, a threshold on the score says so:
|q - k| <= r  is  2 q . k - |k|^2 >= |q|^2 - r^2.
"""

import torch
from torch import Tensor

from positronic.kernels.autocast import without_autocast
from positronic.kernels.metric.reference import PENALTY, SINK, Metric

__all__ = ["metric_key_bias"]


def metric_key_bias(q: Tensor, keys: Tensor, v: Tensor, metric: Metric, allowed: Tensor) -> Tensor:
    """Same arguments and result as the definition."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    groups, width, tokens = keys.shape[1], q.shape[-1], q.shape[2]
    kind, k, lanes = v.dtype, keys[..., :width].to(dtype), keys[..., width:].to(dtype)
    q, v = q.to(dtype).unflatten(1, (groups, -1)), v.to(dtype)  # (B, G, H / G, T, K)
    slope = (metric.alpha.to(dtype) * metric.slope).unflatten(0, (groups, -1))[..., None, None]  # (G, H / G, 1, 1)
    size = k.square().sum(-1)[:, :, None, None]  # (B, G, 1, 1, S)
    with without_autocast(q.device.type):
        near = 2 * (q.flatten(2, 3) @ k.mT).unflatten(2, (-1, tokens))  # (B, G, H / G, T, S)
        z = slope * (near - size if metric.distance else near) + lanes[:, :, None, None, :, PENALTY]
        allowed = allowed[:, :, None]
        sink = lanes[:, :, None, None, :, SINK]
        if metric.radius is not None:
            within = near - size >= q.square().sum(-1, keepdim=True) - metric.radius**2
            allowed = allowed & (within | (sink > 0))
        if metric.sink is not None:
            z = z + metric.sink.to(dtype).unflatten(0, (groups, -1))[..., None, None] * sink
        weights = torch.softmax(z.masked_fill(~allowed, -torch.inf), -1).nan_to_num(0.0)
        return (weights.flatten(2, 3) @ v).unflatten(2, (-1, tokens)).flatten(1, 2).to(kind)
