"""Attention by distance through the library's fused kernels: the bias of a key rides in spare lanes of its vector.

    lane         key                                         query
    0 .. K-1     k_s                                         2 alpha slope q_t
    K .. K+2     -slope |k_s|^2 in three parts               alpha, alpha, alpha
    K+3          penalty of the key                          1
    K+4          1 for the sink's row, else 0                the sink's logit
    K+5 .. K+7   0                                           0

so that query times key, unscaled, is the score of the reference without |q|^2. With K = 56 a lane vector is as wide as
a usual head. In bfloat16 one lane would lose up to 0.06 of a logit; three carry the bias to 2e-7. |k|^2 is taken of the
rounded vector and 2 alpha slope q formed from the rounded alpha: scores are those of the rounded vectors, exactly. All
three parts would pass on the same gradient; it goes through the first alone. float16 cannot hold the bias of keys
longer than sqrt(65504 / slope), so it takes the key-bias form.

The sink is a key at which every query finds its own logit and a value of 0. Cached calls keep it as the first row of
their keys; whole rows get it in front of them, or from the log-sum-exp where the block-sparse kernel gives one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.attention import Documents, causal_attention, masked_attention
from positronic.kernels.attention.fused import sunk_attention
from positronic.kernels.metric.reference import PENALTY, SINK, SPARE, Metric

__all__ = ["as_keys", "as_queries", "metric_lanes", "metric_lanes_causal", "sink_row", "with_sink"]


def as_keys(k: Tensor, penalty: Tensor | None, metric: Metric, dtype: torch.dtype) -> Tensor:
    """k (B, G, T, K), penalty (B, G, T) -> (B, G, T, K + 8) in `dtype`: what is cached and read."""
    vector = k.to(dtype)
    lanes = [vector]
    if metric.distance:
        wide = vector.to(torch.promote_types(dtype, torch.float32))
        bias = -metric.slope * wide.square().sum(-1, keepdim=True)
        lanes += _parts(bias.clamp(min=torch.finfo(dtype).min), dtype)
    else:
        lanes.append(vector.new_zeros(*vector.shape[:-1], PENALTY))
    lanes.append(torch.zeros_like(vector[..., :1]) if penalty is None else penalty.to(dtype)[..., None])
    lanes.append(vector.new_zeros(*vector.shape[:-1], SPARE - SINK))
    return torch.cat(lanes, -1)


def as_queries(q: Tensor, metric: Metric, dtype: torch.dtype) -> Tensor:
    """q (B, H, T, K) -> (B, H, T, K + 8) in `dtype`.

    alpha times (2 slope q, 1, 1, 1, 0, ..) plus what is the same for all queries: its gradient is one sum.
    """
    alpha = metric.alpha.to(dtype).to(q.dtype)[:, None, None]
    one, zero = q.new_ones(()), q.new_zeros(())
    sharp = torch.stack([one, one, one, *[zero] * (SPARE - PENALTY)])
    vector = torch.cat([2 * metric.slope * q, sharp.expand(*q.shape[:-1], SPARE)], -1)
    sink = zero if metric.sink is None else metric.sink.to(q.dtype)[:, None, None]
    at = torch.arange(-q.shape[-1], SPARE, device=q.device)
    return torch.addcmul((at == PENALTY) + (at == SINK) * sink, alpha, vector).to(dtype)


def sink_row(keys: Tensor) -> Tensor:
    """(B, G, 1, K + 8): the key of the sink, like `keys`. Its value is 0, and every query may read it."""
    row = torch.zeros_like(keys[:, :, :1])
    row[..., SINK - SPARE] = 1
    return row


def with_sink(keys: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with the sink in front; a mask gets a True there."""
    return torch.cat([sink_row(keys), keys], 2), F.pad(v, (0, 0, 1, 0))


def metric_lanes(q: Tensor, keys: Tensor, v: Tensor, metric: Metric, allowed: Tensor) -> Tensor:
    """Cached calls, keys with the sink's row if there is a sink: as the reference, without a (T, S) matrix per head."""
    return masked_attention(as_queries(q, metric, keys.dtype), keys, v, allowed, scale=1.0)


def metric_lanes_causal(q: Tensor, keys: Tensor, v: Tensor, metric: Metric, documents: Documents | None) -> Tensor:
    """Whole rows: q (B, H, T, K), keys (B, G, T, K + 8), v (B, G, T, V) -> (B, H, T, V)."""
    queries = as_queries(q, metric, keys.dtype)
    if metric.sink is None:
        return causal_attention(queries, keys, v, documents, scale=1.0)
    if documents is not None and documents.blocks is not None:
        return sunk_attention(queries, keys, v, documents, metric.sink, scale=1.0)
    if documents is not None:
        assert documents.allowed is not None, "one of the two forms"
        allowed = F.pad(documents.allowed, (1, 0), value=True)
        return masked_attention(queries, *with_sink(keys, v), allowed, scale=1.0)
    return causal_attention(F.pad(queries, (0, 0, 1, 0)), *with_sink(keys, v), None, scale=1.0)[:, :, 1:]


def _parts(bias: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """A float32 number as the sum of three of `dtype`; the gradient goes through the first."""
    high = bias.to(dtype)
    if dtype.itemsize >= 4:
        return [high, torch.zeros_like(high), torch.zeros_like(high)]
    rest = bias.detach() - high.detach().float()
    middle = rest.to(dtype)
    return [high, middle, (rest - middle.float()).to(dtype)]
