"""Attention by distance: the definition, its form with a bias on each key, and the library's fused kernels.

What runs: the definition under POSITRONIC_KERNELS=reference; the key-bias form where keys must be within a radius of
the query, a threshold on scores that fused kernels do not show, and in float16, which cannot hold a key's bias; the
fused kernels otherwise.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.errors import DeviceError
from positronic.kernels.attention import Documents, visible
from positronic.kernels.dispatch import reference_only
from positronic.kernels.metric.key_bias import metric_key_bias
from positronic.kernels.metric.lanes import as_keys, as_queries, metric_lanes, metric_lanes_causal, sink_row, with_sink
from positronic.kernels.metric.reference import PENALTY, SINK, SPARE, Metric, metric_reference
from positronic.kernels.metric.triangle import Triangles, triangles

__all__ = [
    "PENALTY",
    "SINK",
    "SPARE",
    "Documents",
    "Metric",
    "Triangles",
    "as_keys",
    "as_queries",
    "causal_metric_attention",
    "masked_metric_attention",
    "metric_key_bias",
    "metric_lanes",
    "metric_lanes_causal",
    "metric_reference",
    "sink_row",
    "triangles",
    "with_sink",
]


def causal_metric_attention(
    q: Tensor,
    k: Tensor,
    penalty: Tensor | None,
    v: Tensor,
    metric: Metric,
    documents: Documents | None,
    fused: bool | None = None,
) -> Tensor:
    """Whole rows: q (B, H, T, K), k (B, G, T, K), penalty (B, G, T), v (B, G, T, V) -> (B, H, T, V), v's dtype."""
    if _runs_fused(v.dtype, metric, fused):
        return metric_lanes_causal(q, k, penalty, v, metric, documents)
    keys, allowed = as_keys(k, penalty, metric, v.dtype), visible(q, documents)
    if metric.sink is not None:
        (keys, v), allowed = with_sink(keys, v), F.pad(allowed, (1, 0), value=True)
    return _explicit(q, keys, v, metric, allowed)


def masked_metric_attention(
    q: Tensor, keys: Tensor, v: Tensor, metric: Metric, allowed: Tensor, fused: bool | None = None
) -> Tensor:
    """Cached calls: q (B, H, T, K), keys (B, G, S, K + 8), v (B, G, S, V), allowed (B, 1, T, S) -> (B, H, T, V).

    If there is a sink, one of the rows is `sink_row`.
    """
    if _runs_fused(keys.dtype, metric, fused):
        return metric_lanes(q, keys, v, metric, allowed)
    return _explicit(q, keys, v, metric, allowed)


def _runs_fused(dtype: torch.dtype, metric: Metric, fused: bool | None) -> bool:
    if reference_only() or fused is False or metric.radius is not None:
        return False
    if dtype != torch.float16:
        return True
    if fused:
        raise DeviceError(
            "Fused metric attention was asked for in float16, which cannot hold the bias of a long key. "
            "Use bfloat16 or float32, or leave `fused` unset."
        )
    return False


def _explicit(q: Tensor, keys: Tensor, v: Tensor, metric: Metric, allowed: Tensor) -> Tensor:
    run = metric_reference if reference_only() else metric_key_bias
    return run(q, keys, v, metric, allowed)
