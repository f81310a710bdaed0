"""Softmax attention by its definition.

o_t = sum_s p_ts v_s        p_t = softmax over the allowed s of q_t . k_s / sqrt(K)
With a cap c a score x first becomes c erf(sqrt(pi) x / (2 c)): odd, monotone, slope 1 at 0, inside (-c, c).

Shapes   q (B, H, T, K); k, v (B, G, S, K), head h reads group h // (H / G); allowed (B or 1, 1, T, S) bool;
         o (B, H, T, K).
"""

import torch
from torch import Tensor

from positronic.kernels.soft_clamp import soft_clamp

__all__ = ["attention_reference"]


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, cap: float | None = None, scale: float | None = None
) -> Tensor:
    """The definition; cap None: no bound on the scores; scale None: 1 / sqrt(K).

    A row in which nothing is allowed gives zeros.
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("bhtk,bhsk->bhts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if cap is not None:
        scores = soft_clamp(scores, cap)
    scores = scores.masked_fill(~allowed, -torch.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return torch.einsum("bhts,bhsk->bhtk", weights, v)
