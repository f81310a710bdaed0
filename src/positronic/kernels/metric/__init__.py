"""Attention by distance: the definition, its form with a bias on each key, and the library's fused kernels.

The fused kernels run unless keys must be within a radius of the query, a threshold on scores that they do not show, or
lanes are float16, which cannot hold a key's bias: there the key-bias form runs.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.errors import DeviceError
from positronic.kernels.attention import Documents, visible
from positronic.kernels.metric.key_bias import metric_key_bias
from positronic.kernels.metric.lanes import as_keys, as_queries, metric_lanes, metric_lanes_causal, sink_row, with_sink
from positronic.kernels.metric.reference import PENALTY, SINK, SPARE, Metric, metric_reference
from positronic.kernels.metric.triangle import Triangles, triangles
from positronic.kernels.registry import Form, best_form, register

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
    o: Tensor = best_form("causal_metric_attention", v, metric, fused)(q, k, penalty, v, metric, documents)
    return o


def masked_metric_attention(
    q: Tensor, keys: Tensor, v: Tensor, metric: Metric, allowed: Tensor, fused: bool | None = None
) -> Tensor:
    """Cached calls: q (B, H, T, K), keys (B, G, S, K + 8), v (B, G, S, V), allowed (B, 1, T, S) -> (B, H, T, V).

    If there is a sink, one of the rows is `sink_row`.
    """
    o: Tensor = best_form("masked_metric_attention", keys, metric, fused)(q, keys, v, metric, allowed)
    return o


Masked = Callable[[Tensor, Tensor, Tensor, Metric, Tensor], Tensor]
Causal = Callable[[Tensor, Tensor, Tensor | None, Tensor, Metric, Documents | None], Tensor]


def _whole_rows(masked: Masked) -> Causal:
    """A form for cached calls, given whole rows."""

    def causal(
        q: Tensor, k: Tensor, penalty: Tensor | None, v: Tensor, metric: Metric, documents: Documents | None
    ) -> Tensor:
        keys, allowed = as_keys(k, penalty, metric, v.dtype), visible(q, documents)
        if metric.sink is not None:
            (keys, v), allowed = with_sink(keys, v), F.pad(allowed, (1, 0), value=True)
        return masked(q, keys, v, metric, allowed)

    return causal


def _hidden_scores(lanes: Tensor, metric: Metric, fused: bool | None) -> str | None:
    if fused is False:
        return "was told not to run, by fused=False"
    if metric.radius is not None:
        return "does not show the scores that a radius is a threshold on"
    if lanes.dtype != torch.float16:
        return None
    if fused:
        raise DeviceError(
            "Fused metric attention was asked for in float16, which cannot hold the bias of a long key. "
            "Use bfloat16 or float32, or leave `fused` unset."
        )
    return "float16 cannot hold the bias of a long key"


LANES = "all but float16 and keys within a radius"

register(
    "causal_metric_attention",
    Form(kind="torch", name="lanes", run=metric_lanes_causal, takes=LANES, refuses=_hidden_scores),
    Form(kind="torch", name="key bias", run=_whole_rows(metric_key_bias)),
    Form(kind="reference", run=_whole_rows(metric_reference)),
)
register(
    "masked_metric_attention",
    Form(kind="torch", name="lanes", run=metric_lanes, takes=LANES, refuses=_hidden_scores),
    Form(kind="torch", name="key bias", run=metric_key_bias),
    Form(kind="reference", run=metric_reference),
)
