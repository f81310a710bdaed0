"""What a model's heads learn from: the tokens and the hidden vectors some way ahead, in the same document.

    mtp.k     sum over t of m_t+k CE(logits of head k at h_t, y_t+k)             y_t+k = x_t+k+1, m its loss mask
    jepa.a    sum over t of 1 - cos(p(h_t), stopgrad(u_t+a))                     u = h / rms(h)
    jepa.std  sum over rows of tokens * mean over features of the deviation of u in the row

t and t+k are real tokens of one document. `jepa.std` is watched only: below 0.05 the trunk says the same of every
token, which a guess of its own output would reward. A deviation within rows, and not over the batch, is a sum like all
the others.

Shapes   tokens (B, T), hidden (B, T, D).
Counts   targets.k: targets that count and have a token of their document k places before theirs; tokens.k: tokens that
         do, whether or not they count. All distances at once, in one pass over the batch, best on the CPU.
"""

from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.data import TokenBatch
from positronic.errors import ConfigError
from positronic.lm import FARTHEST, LatentHead
from positronic.train.objectives.objective import Divisors

__all__ = ["ahead", "count_ahead", "counted_ahead", "jepa_sums", "same_document"]


def count_ahead(batch: TokenBatch) -> dict[str, int]:
    """targets.k and tokens.k for k = 1 .. FARTHEST."""
    place = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    depth = place.expand_as(batch.tokens)  # tokens of the same document before this one
    if batch.segments is not None:
        begins = F.pad(batch.segments[:, 1:] != batch.segments[:, :-1], (1, 0))
        depth = place - (place * begins).cummax(1).values
    found: dict[str, int] = {}
    for name, mask in (("targets", batch.loss_mask), ("tokens", batch.valid)):
        deep = (depth if mask is None else depth[mask]).clamp(max=FARTHEST).flatten()
        at_least = deep.bincount(minlength=FARTHEST + 1).flip(0).cumsum(0).flip(0).tolist()
        found |= {f"{name}.{k}": at_least[k] for k in range(1, FARTHEST + 1)}
    return found


@overload
def counted_ahead(counts: Mapping[str, int], what: str, k: int) -> int: ...
@overload
def counted_ahead(counts: Mapping[str, Tensor], what: str, k: int) -> Tensor: ...
def counted_ahead(counts: Divisors, what: str, k: int) -> int | Tensor:
    """How many pairs `k` apart a sum is divided by; 1 where there are none, whose sum is 0."""
    if f"{what}.{k}" not in counts:
        raise ConfigError(
            f"A head of this model guesses {k} tokens ahead, and the objective counts up to {FARTHEST}; "
            f"use fewer heads, or a shorter distance."
        )
    found = counts[f"{what}.{k}"]
    return found.clamp(min=1) if isinstance(found, Tensor) else max(1, found)


def ahead(x: Tensor, k: int) -> Tensor:
    """(B, T, ...) moved `k` places to the front, zeros (False) at the end: what stands k places ahead."""
    moved = x[:, k:]
    return torch.cat([moved, x.new_zeros(len(x), x.shape[1] - moved.shape[1], *x.shape[2:])], 1)


def same_document(batch: TokenBatch, k: int) -> Tensor:
    """(B, T) bool: whether a token and the one `k` places ahead are real and of one document."""
    real = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.valid is None else batch.valid
    together = ahead(real, k) & real
    return together if batch.segments is None else together & (ahead(batch.segments, k) == batch.segments)


def jepa_sums(head: LatentHead, hidden: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """The sum jepa.a of each row (B,), with gradient, and jepa.std, without."""
    unit = F.rms_norm(hidden.detach().float(), hidden.shape[-1:])  # (B, T, D)
    distance = 1 - F.cosine_similarity(head(hidden).float(), ahead(unit, head.ahead), dim=-1)  # (B, T)
    guessed = (distance * same_document(batch, head.ahead)).sum(1)
    real = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.valid is None else batch.valid
    tokens = real.sum(1)  # (B,)
    share = (real / tokens.clamp(min=1)[:, None])[..., None]  # (B, T, 1)
    mean = (unit * share).sum(1, keepdim=True)  # (B, 1, D)
    deviation = ((unit - mean).square() * share).sum(1).sqrt().mean(-1)  # (B,)
    return guessed, (deviation * tokens).sum()
