"""Gated stores read by content: the definition, a loop over tokens.

S_t[e] = S_{t-1}[e] + w_t[e] (v_t - S_{t-1}[e])            S in S_in, S_out, each with its own v, both with the same w
a_t[e] = (address_t[e] + q_t . S_in,t-1[e]) / sqrt(V)      read before write: a token never sees what it writes
pi_t = softmax over the `top` entries of largest a_t       equal scores: the lowest index
read_t[e] = pi_t[e] S_out,t-1[e]                           S_{t-1} = 0 where t begins another document

Shapes   G groups (rings, stations) of E entries of width V: q (B, T, G, V); address, w (B, T, G, E), 0 <= w < 1;
         v (B, T, 2, G, V) and stores (B, 2, G, E, V), in before out; fresh (B, T) bool, True where a document begins
         that is not the one before. The groups of q and v may be 1: shared by all.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Recall", "choose", "recall_reference"]


class Recall(NamedTuple):
    """What T tokens read, and what the stores are after them."""

    choice: Tensor
    """(B, T, G, E) pi: how much of each entry is read, 0 where an entry is not chosen; sums to 1."""
    read: Tensor
    """(B, T, G, E, V) pi S_out."""
    stores: Tensor
    """(B, 2, G, E, V) after the last token."""
    rollback: Tensor | None = None
    """(B, T+1, 2, G, E, V) the stores before the first and after each token; None from the chunked form."""


def recall_reference(
    q: Tensor, address: Tensor, w: Tensor, v: Tensor, stores: Tensor, fresh: Tensor, top: int
) -> Recall:
    """The definition; how tokens are split into calls changes no bit."""
    rollback, before = [stores], []
    new = fresh.view(*fresh.shape, 1, 1, 1, 1)
    whole = (part.unbind(1) for part in (new, w[:, :, None, :, :, None], v[..., None, :]))
    for begins, share, value in zip(*whole, strict=True):  # (B, 1, 1, 1, 1), (B, 1, G, E, 1), (B, 2, G, 1, V)
        s = rollback[-1].masked_fill(begins, 0.0)
        before.append(s)
        rollback.append(s + share * (value - s))
    s_in, s_out = torch.stack(before, 2).unbind(1)  # (B, T, G, E, V) each
    choice = choose((address + (q[..., None, :] * s_in).sum(-1)) / q.shape[-1] ** 0.5, top)
    return Recall(choice, choice[..., None] * s_out, rollback[-1], torch.stack(rollback, 1))


def choose(scores: Tensor, top: int) -> Tensor:
    """(..., E) -> (..., E): softmax over the `top` largest scores, equal ones by lowest index; 0 for all others."""
    entries = scores.shape[-1]
    if top < entries:
        one, other = scores[..., :, None], scores[..., None, :]
        earlier = torch.ones(entries, entries, dtype=torch.bool, device=scores.device).tril(-1)
        rank = ((other > one) | ((other == one) & earlier)).sum(-1)
        scores = scores.masked_fill(rank >= top, -torch.inf)
    return scores.softmax(-1)
