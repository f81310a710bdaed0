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

Adjoints are written out, each one pass over a gradient and what it belongs to, where autograd's own take three or four:
beside attention by the library it is memory that costs.

The sink is a key at which every query finds its own logit and a value of 0. Cached calls keep it as the first row of
their keys; whole rows get it in front of them, or from the log-sum-exp where the block-sparse kernel gives one.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.attention import Documents, causal_attention, masked_attention
from positronic.kernels.attention.fused import sunk_attention
from positronic.kernels.metric.reference import PENALTY, SINK, SPARE, Metric

__all__ = ["as_keys", "as_queries", "metric_lanes", "metric_lanes_causal", "sink_row", "with_sink"]


def as_keys(k: Tensor, penalty: Tensor | None, metric: Metric, dtype: torch.dtype) -> Tensor:
    """k (B, G, T, K), penalty (B, G, T) -> (B, G, T, K + 8) in `dtype`: what is cached and read."""
    keys: Tensor = _Keys.apply(k, penalty, metric.slope if metric.distance else None, dtype)
    return keys


def as_queries(q: Tensor, metric: Metric, dtype: torch.dtype) -> Tensor:
    """q (B, H, T, K) -> (B, H, T, K + 8) in `dtype`."""
    queries: Tensor = _Queries.apply(q, metric.alpha, metric.sink, metric.slope, dtype)
    return queries


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
    if q.shape[1] == keys.shape[1]:
        keys = _Sharpened.apply(keys, metric.alpha, metric.slope if metric.distance else None)
        metric = metric._replace(alpha=metric.alpha.detach())
    if metric.sink is not None and documents is not None and documents.blocks is not None:
        sinkless = as_queries(q, metric._replace(sink=None), keys.dtype)
        return sunk_attention(sinkless, keys, v, documents, metric.sink, scale=1.0)
    queries = as_queries(q, metric, keys.dtype)
    if metric.sink is None:
        return causal_attention(queries, keys, v, documents, scale=1.0)
    if documents is not None:
        assert documents.allowed is not None, "one of the two forms"
        allowed = F.pad(documents.allowed, (1, 0), value=True)
        return masked_attention(queries, *with_sink(keys, v), allowed, scale=1.0)
    return causal_attention(F.pad(queries, (0, 0, 1, 0)), *with_sink(keys, v), None, scale=1.0)[:, :, 1:]


class _Keys(torch.autograd.Function):
    """k, penalty -> lanes; dk = dK - 2 slope dK_K k, where dK_K is the gradient of the bias."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, penalty: Tensor | None, slope: float | None, dtype: torch.dtype) -> Tensor:
        width = k.shape[-1]
        keys = k.new_zeros(*k.shape[:-1], width + SPARE, dtype=dtype)
        keys[..., :width] = k
        if slope is not None:
            wide = keys.to(torch.promote_types(dtype, torch.float32))
            bias = -slope * wide.square().sum(-1)
            for lane, part in enumerate(_parts(bias.clamp(min=torch.finfo(dtype).min), dtype)):
                keys[..., width + lane] = part
        if penalty is not None:
            keys[..., width + PENALTY] = penalty
        ctx.save_for_backward(keys)
        ctx.slope, ctx.kinds = slope, (k.dtype, None if penalty is None else penalty.dtype)
        return keys

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (keys,) = ctx.saved_tensors
        width, (kind, penalties) = g.shape[-1] - SPARE, ctx.kinds
        wide = torch.promote_types(g.dtype, torch.float32)
        dk = g[..., :width].to(wide)
        if ctx.slope is not None:
            dk = dk - 2 * ctx.slope * g[..., width, None].to(wide) * keys[..., :width].to(wide)
        return dk.to(kind), None if penalties is None else g[..., width + PENALTY].to(penalties), None, None


class _Queries(torch.autograd.Function):
    """q, alpha, sink -> lanes; dq = 2 alpha slope dQ, and dalpha = sum dQ . Q / alpha over the lanes it multiplies."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, alpha: Tensor, sink: Tensor | None, slope: float, dtype: torch.dtype) -> Tensor:
        width, wide = q.shape[-1], torch.promote_types(dtype, torch.float32)
        sharp = alpha.to(dtype)[:, None, None]
        queries = q.new_zeros(*q.shape[:-1], width + SPARE, dtype=dtype)
        queries[..., :width] = q.to(wide) * (2 * slope * sharp.to(wide))
        queries[..., width : width + PENALTY] = sharp
        queries[..., width + PENALTY] = 1
        if sink is not None:
            queries[..., width + SINK] = sink.to(dtype)[:, None]
        ctx.save_for_backward(queries, alpha)
        ctx.slope, ctx.kinds = slope, (q.dtype, None if sink is None else sink.dtype)
        return queries

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        queries, alpha = ctx.saved_tensors
        width, wide, (kind, sinks) = g.shape[-1] - SPARE, torch.promote_types(g.dtype, torch.float32), ctx.kinds
        sharp = alpha.to(g.dtype).to(wide)[:, None, None]
        vector = g[..., :width].to(wide)
        dq = vector * (2 * ctx.slope * sharp)
        dalpha = dsink = None
        if ctx.needs_input_grad[1]:
            along = vector * queries[..., :width].to(wide) / sharp
            along = along + F.pad(g[..., width : width + PENALTY].to(wide), (0, width - PENALTY))
            dalpha = along.sum(-1).sum((0, 2)).to(alpha.dtype)
        if ctx.needs_input_grad[2]:
            dsink = g[..., width + SINK].to(wide).sum((0, 2)).to(sinks)
        return dq.to(kind), dalpha, dsink, None, None


class _Sharpened(torch.autograd.Function):
    """Keys as they are; where each head of queries has its own, alpha finds its gradient here and not at the queries.

    Over the lanes that alpha multiplies, sum_t dQ_t . Q_t = sum_s dK_s . K_s, both being sum_ts dz_ts z_ts. Keys are
    read on the way back in any case; queries would be for this alone.
    """

    @staticmethod
    def forward(ctx: Any, keys: Tensor, alpha: Tensor, slope: float | None) -> Tensor:
        ctx.save_for_backward(keys, alpha)
        ctx.slope = slope
        return keys.view_as(keys)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[1]:
            return g, None, None
        keys, alpha = ctx.saved_tensors
        width, wide = g.shape[-1] - SPARE, torch.promote_types(g.dtype, torch.float32)
        k, along = keys[..., :width].to(wide), g[..., :width].to(wide)
        if ctx.slope is not None:
            along = along - ctx.slope * g[..., width, None].to(wide) * k
        dalpha = (k * along).sum(-1).sum((0, 2)) / alpha.to(g.dtype).to(wide)
        return g, dalpha.to(alpha.dtype), None


def _parts(bias: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """A float32 number as the sum of three of `dtype`."""
    high = bias.to(dtype)
    if dtype.itemsize >= 4:
        return [high]
    rest = bias - high.float()
    middle = rest.to(dtype)
    return [high, middle, (rest - middle.float()).to(dtype)]
