"""Softmax attention: the definition, and the library's fused kernels where they give the same."""

import torch
from torch import Tensor

from positronic.kernels.attention import fused
from positronic.kernels.attention.fused import Documents
from positronic.kernels.attention.reference import attention_reference
from positronic.kernels.registry import Form, best_form, register

__all__ = ["Documents", "attention_reference", "causal_attention", "masked_attention", "visible"]


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents | None,
    cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """Whole rows in training: q (B, H, T, K), k and v (B, G, T, K) -> (B, H, T, K). Scale None: 1 / sqrt(K).

    A cap on the scores takes the block-sparse kernel, where there is one, or the definition: the others have no hook.
    """
    o: Tensor = best_form("causal_attention", q, documents, cap)(q, k, v, documents, cap, scale)
    return o


def visible(q: Tensor, documents: Documents | None) -> Tensor:
    """Who sees whom in whole rows of queries (B, H, T, K), for forms that read a mask: (B or 1, 1, T, T) bool."""
    if documents is not None:
        return documents.mask()
    return torch.ones(1, 1, q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, cap: float | None = None, scale: float | None = None
) -> Tensor:
    """Cached calls: q (B, H, T, K), k and v (B, G, S, K), allowed (B, 1, T, S) bool -> (B, H, T, K)."""
    o: Tensor = best_form("masked_attention", q, cap)(q, k, v, allowed, cap, scale)
    return o


def _causal_reference(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None, cap: float | None, scale: float | None
) -> Tensor:
    return attention_reference(q, k, v, visible(q, documents), cap, scale)


def _capped_rows(q: Tensor, documents: Documents | None, cap: float | None) -> str | None:
    blocks = documents is not None and documents.blocks is not None
    return None if cap is None or blocks else "has no hook for a cap without a block mask"


def _capped(q: Tensor, cap: float | None) -> str | None:
    return None if cap is None else "has no hook for a cap on scores"


register(
    "causal_attention",
    Form(
        kind="torch",
        name="fused",
        run=fused.causal_attention,
        takes="scores without a cap, and under a block mask with one",
        refuses=_capped_rows,
    ),
    Form(kind="reference", run=_causal_reference),
)
register(
    "masked_attention",
    Form(kind="torch", name="fused", run=fused.masked_attention, takes="scores without a cap", refuses=_capped),
    Form(kind="reference", run=attention_reference),
)
