"""Attention by distance, by its definition.

    z_ts = alpha slope (|q_t|^2 - |q_t - k_s|^2) + penalty_s          by distance: nearest keys weigh most
    z_ts = 2 alpha slope q_t . k_s + penalty_s                        by angle or dot product
    o_t  = sum_s p_ts v_s        p_t = softmax over the allowed s of z_t, and over a sink that says nothing

|q_t|^2 is the same for all keys of a row, so it changes no weight; with it the score of a key at the origin is 0, which
is what the sink's logit is measured against. With a radius r only keys with |q_t - k_s| <= r are allowed, and the sink.

Shapes   q (B, H, T, K); keys (B, G, S, K + 8), the first K lanes the vector, lane K + 3 its penalty, lane K + 4 1 for
         the sink's row and 0 for all others (see `lanes`); v (B, G, S, V), 0 for the sink; head h reads group
         h // (H / G); allowed (B or 1, 1, T, S) bool; o (B, H, T, V).
Source   Kim et al. 2021, "The Lipschitz constant of self-attention", arXiv 2006.04710 (scores by squared distance).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from positronic.kernels.autocast import without_autocast

__all__ = ["PENALTY", "SINK", "SPARE", "Metric", "metric_reference"]

SPARE = 8
"""Lanes of a key behind its vector: three of bias, one of penalty, one that marks the sink, three unused."""
PENALTY, SINK = 3, 4
"""Which of them."""


class Metric(NamedTuple):
    """What makes scores of queries and keys that have been scaled by the metric."""

    alpha: Tensor
    """(H,) sharpness of each head."""
    slope: float
    """Of scores over squared distance, at alpha 1."""
    distance: bool = True
    """Whether |k|^2 counts; not for an angle or a dot product."""
    radius: float | None = None
    """Distance up to which a query sees a key; None: any."""
    sink: Tensor | None = None
    """(H,) logit of the sink; None: keys share all the weight."""


def metric_reference(q: Tensor, keys: Tensor, v: Tensor, metric: Metric, allowed: Tensor) -> Tensor:
    """The definition, distances formed one by one, in float32 or wider; o in the dtype of v.

    A row in which nothing is allowed gives zeros.
    """
    group, width, kind = q.shape[1] // keys.shape[1], q.shape[-1], v.dtype
    dtype = torch.promote_types(torch.promote_types(q.dtype, kind), torch.float32)
    q, keys, v = q.to(dtype), keys.to(dtype).repeat_interleave(group, 1), v.to(dtype).repeat_interleave(group, 1)
    k, penalty, sink = keys[..., :width], keys[..., None, :, width + PENALTY], keys[..., None, :, width + SINK] > 0
    gap = (q[..., :, None, :] - k[..., None, :, :]).square().sum(-1)  # (B, H, T, S)
    slope = (metric.alpha * metric.slope)[:, None, None]
    if metric.distance:
        z = slope * (q.square().sum(-1)[..., None] - gap)
    else:
        with without_autocast(q.device.type):
            z = 2 * slope * torch.einsum("bhtk,bhsk->bhts", q, k)
    z = z + penalty
    if metric.radius is not None:
        allowed = allowed & (sink | (gap <= metric.radius**2))
    if metric.sink is not None:
        z = torch.where(sink, metric.sink[:, None, None], z)
    weights = torch.softmax(z.masked_fill(~allowed, -torch.inf), -1).nan_to_num(0.0)
    with without_autocast(q.device.type):
        return torch.einsum("bhts,bhsv->bhtv", weights, v).to(kind)
