"""Softmax attention: the definition, and the library's fused kernels where they give the same."""

import torch
from torch import Tensor

from positronic.kernels.attention import fused
from positronic.kernels.attention.fused import Documents
from positronic.kernels.attention.reference import attention_reference
from positronic.kernels.dispatch import reference_only

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
    blocks = documents is not None and documents.blocks is not None
    if reference_only() or (cap is not None and not blocks):
        return attention_reference(q, k, v, visible(q, documents), cap, scale)
    return fused.causal_attention(q, k, v, documents, cap, scale)


def visible(q: Tensor, documents: Documents | None) -> Tensor:
    """Who sees whom in whole rows of queries (B, H, T, K), for forms that read a mask: (B or 1, 1, T, T) bool."""
    if documents is not None:
        return documents.mask()
    return torch.ones(1, 1, q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, cap: float | None = None, scale: float | None = None
) -> Tensor:
    """Cached calls: q (B, H, T, K), k and v (B, G, S, K), allowed (B, 1, T, S) bool -> (B, H, T, K)."""
    if reference_only() or cap is not None:
        return attention_reference(q, k, v, allowed, cap, scale)
    return fused.masked_attention(q, k, v, allowed, scale)
