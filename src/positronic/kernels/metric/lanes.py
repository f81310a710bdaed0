"""Attention by distance through the library's fused kernels: the bias of a key rides in spare lanes of its vector.

    lane         key                                         query
    0 .. K-1     k_s                                         2 alpha slope q_t
    K .. K+2     -slope |k_s|^2 in three parts               alpha, alpha, alpha
    K+3          penalty of the key                          1
    K+4          1 for the sink's row, else 0                the sink's logit
    K+5 .. K+7   0                                           0

so that query times key, unscaled, is the score of the reference without |q|^2. Sharp keys carry alpha themselves: their
first lanes are 2 alpha slope k_s and -alpha slope |k_s|^2 in three parts, and those of the query q_t and 1, 1, 1. A
cached key serves heads of several sharpnesses and cannot; in whole rows whose heads all have keys of their own they do,
since keys are read on the way back in any case, and the gradient of a query is then the first lanes of what attention
gives. Adjoints are written out, one pass over memory each, which is what costs beside attention by the library.

With K = 56 a lane vector is as wide as a usual head. In bfloat16 one lane would lose up to 0.06 of a logit; three carry
the bias whole. |k|^2 is taken of the rounded vector, and what else alpha multiplies is of the rounded alpha: scores are
those of the rounded vectors, exactly. All three parts would pass on the same gradient; it goes through the first alone.
float16 cannot hold the bias of keys longer than sqrt(65504 / slope), so it takes the key-bias form.

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


def as_keys(k: Tensor, penalty: Tensor | None, metric: Metric, dtype: torch.dtype, sharp: bool = False) -> Tensor:
    """k (B, G, T, K), penalty (B, G, T) -> (B, G, T, K + 8) in `dtype`. Sharp keys are not cached."""
    alpha = metric.alpha if sharp else None
    keys: Tensor = _Keys.apply(k, penalty, alpha, metric.slope, metric.distance, dtype)
    return keys


def as_queries(q: Tensor, metric: Metric, dtype: torch.dtype, sharp: bool = True) -> Tensor:
    """q (B, H, T, K) -> (B, H, T, K + 8) in `dtype`; not sharp where keys are."""
    queries: Tensor = _Queries.apply(q, metric.alpha if sharp else None, metric.sink, metric.slope, dtype)
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


def metric_lanes_causal(
    q: Tensor, k: Tensor, penalty: Tensor | None, v: Tensor, metric: Metric, documents: Documents | None
) -> Tensor:
    """Whole rows: q (B, H, T, K), k (B, G, T, K), penalty (B, G, T), v (B, G, T, V) -> (B, H, T, V)."""
    sharp = q.shape[1] == k.shape[1]
    blocks = documents is not None and documents.blocks is not None
    keys = as_keys(k, penalty, metric, v.dtype, sharp)
    queries = as_queries(q, metric._replace(sink=None) if blocks else metric, v.dtype, not sharp)
    if metric.sink is None:
        return causal_attention(queries, keys, v, documents, scale=1.0)
    if documents is None:
        return causal_attention(F.pad(queries, (0, 0, 1, 0)), *with_sink(keys, v), None, scale=1.0)[:, :, 1:]
    if documents.allowed is None:
        return sunk_attention(queries, keys, v, documents, metric.sink, scale=1.0)
    allowed = F.pad(documents.allowed, (1, 0), value=True)
    return masked_attention(queries, *with_sink(keys, v), allowed, scale=1.0)


class _Keys(torch.autograd.Function):
    """k, penalty, alpha -> lanes: y = c k and b = -size |y|^2, as `_scales` says.

    dk = c (dy - 2 size db y) and alpha dalpha = sum y . (dy - size db y); rounding passes gradients on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        k: Tensor,
        penalty: Tensor | None,
        alpha: Tensor | None,
        slope: float,
        distance: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        width, wide = k.shape[-1], _wide(dtype)
        c, size = _scales(alpha, slope, wide)
        vector = _rounded(k.to(wide) if alpha is None else c * k.to(wide), dtype).to(dtype)
        keys = F.pad(vector, (0, SPARE))
        if distance:
            bias = -size * vector.to(wide).square().sum(-1, keepdim=True)
            for lane, part in enumerate(_parts(bias.clamp(min=torch.finfo(dtype).min), dtype), width):
                keys[..., lane : lane + 1] = part
        if penalty is not None:
            keys[..., width + PENALTY] = penalty
        ctx.save_for_backward(keys, alpha)
        ctx.slope, ctx.distance = slope, distance
        return keys

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        keys, alpha = ctx.saved_tensors
        width, wide = g.shape[-1] - SPARE, _wide(g.dtype)
        c, size = _scales(alpha, ctx.slope, wide)
        vector, straight = keys[..., :width].to(wide), g[..., :width].to(wide)
        pull = size * g[..., width, None].to(wide) * vector if ctx.distance else 0.0
        dpenalty = g[..., width + PENALTY] if ctx.needs_input_grad[1] else None
        dalpha = None
        if ctx.needs_input_grad[2]:
            dalpha = (vector * (straight - pull)).sum(-1).sum((0, 2)) / alpha.to(wide)
        return c * (straight - 2 * pull), dpenalty, dalpha, None, None, None


class _Queries(torch.autograd.Function):
    """q, alpha, sink -> lanes; dalpha = sum dQ . Q / alpha over the lanes that it multiplies."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, alpha: Tensor | None, sink: Tensor | None, slope: float, dtype: torch.dtype
    ) -> Tensor:
        width, sharp = q.shape[-1], None if alpha is None else _rounded(alpha.to(_wide(dtype)), dtype).view(-1, 1, 1)
        queries = F.pad((q if sharp is None else 2 * slope * sharp * q).to(dtype), (0, SPARE))
        if sharp is None:
            queries[..., width : width + PENALTY + 1].fill_(1)
        else:
            queries[..., width : width + PENALTY] = sharp
            queries[..., width + PENALTY].fill_(1)
        if sink is not None:
            queries[..., width + SINK] = sink[:, None]
        ctx.save_for_backward(None if alpha is None else queries, alpha)
        ctx.slope = slope
        return queries

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        queries, alpha = ctx.saved_tensors
        width, wide = g.shape[-1] - SPARE, _wide(g.dtype)
        dalpha, dsink = None, None
        if ctx.needs_input_grad[2]:
            dsink = g[..., width + SINK].to(wide).sum((0, 2))
        if alpha is None:
            return g[..., :width], None, dsink, None, None
        sharp, straight = _rounded(alpha.to(wide), g.dtype)[:, None, None], g[..., :width].to(wide)
        if ctx.needs_input_grad[1]:
            along = straight * queries[..., :width].to(wide) / sharp
            # Padded, the three lanes are summed in the pass that reads the others.
            along = along + F.pad(g[..., width : width + PENALTY].to(wide), (0, width - PENALTY))
            dalpha = along.sum(-1).sum((0, 2))
        return 2 * ctx.slope * sharp * straight, dalpha, dsink, None, None


def _scales(alpha: Tensor | None, slope: float, wide: torch.dtype) -> tuple[Tensor | float, Tensor | float]:
    """c and size: 2 alpha slope and 1 / (4 alpha slope), broadcasting over (B, G, T, K); without alpha 1 and slope."""
    if alpha is None:
        return 1.0, slope
    sharp = alpha.to(wide)[:, None, None]
    return 2 * slope * sharp, 0.25 / (slope * sharp)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or `dtype` where that is wider: what products and sums are taken in."""
    return torch.promote_types(dtype, torch.float32)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Wide x as bfloat16 holds it, by its bits: a compiler drops a cast that is undone in one kernel. Else x itself."""
    if dtype != torch.bfloat16:
        return x
    bits = x.view(torch.int32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return torch.where(x.isnan(), x, nearest.view(torch.float32))


def _parts(bias: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """A wide number as a sum of what `dtype` holds: 24 bits as three times 8, exactly. float16 lanes are never read."""
    if dtype != torch.bfloat16:
        return [bias]
    high = _rounded(bias, dtype)
    middle = _rounded(bias - high, dtype)
    return [high, middle, bias - high - middle]
