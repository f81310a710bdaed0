"""Gated delta rule: the definition, a loop over tokens.

p_t = S_{t-1} k_t                        what the memory has under this key
u_t = beta_t (v_t - alpha_t p_t)         what it lacks; alpha_t = exp(log_decay_t)
S_t = alpha_t S_{t-1} + u_t k_t^T        = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T
o_t = S_t q_t                            alpha_t = 0 where t begins another document

Where 0 <= beta |k|^2 <= 1 and log_decay <= 0, no token's map on S has an eigenvalue outside [0, 1]: S cannot explode,
whatever is written. A token with beta 0 and log decay 0 changes nothing, which is what padding is.

Shapes   H heads: q, k (B, T, H, K), v (B, T, H, V), log_decay, beta (B, T, H); S (B, H, V, K); fresh (B, T) bool, True
         where a document begins that is not the one before; o (B, T, H, V). Any one dtype.
Cost     7 K V operations a head and token.
Source   Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks", arXiv 2412.06464, equation 10. Their S, too, is
         (V, K); flash-linear-attention keeps its transpose.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Memories", "read_reference", "replay", "write_reference"]


class Memories(NamedTuple):
    """What the loop leaves to read."""

    after: Tensor
    """(B, T, H, V, K): S after each token."""


def write_reference(
    k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, memory: Tensor, fresh: Tensor
) -> tuple[Memories, Tensor]:
    """The definition: what to read, and S after the call; how tokens are split into calls changes no bit."""
    after = list(_memories(k, v, log_decay, beta, memory, fresh))
    return Memories(torch.stack(after, 1)), after[-1]


def read_reference(q: Tensor, context: Memories) -> Tensor:
    """o (B, T, H, V)."""
    return (context.after * q[..., None, :]).sum(-1)


def replay(k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, memory: Tensor, fresh: Tensor) -> Tensor:
    """S after the call alone, by the same loop."""
    return deque(_memories(k, v, log_decay, beta, memory, fresh), maxlen=1).pop()


def _memories(k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, memory: Tensor, fresh: Tensor) -> Iterator[Tensor]:
    alpha = log_decay.exp().masked_fill(fresh[..., None], 0.0)
    whole = (x.unbind(1) for x in (k[..., None, :], v, alpha[..., None], beta[..., None]))
    for key, value, keep, strength in zip(*whole, strict=True):  # (B, H, 1, K), (B, H, V), (B, H, 1) twice
        had = (memory * key).sum(-1)
        memory = keep[..., None] * memory + (strength * (value - keep * had))[..., None] * key
        yield memory
