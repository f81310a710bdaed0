"""The last W tokens of a sequence: what a layer with a window keeps of it, and who sees whom.

    token t sees     itself and the W - 1 real tokens before it, those of its document alone

Entry p % R of the ring, R = W + 16, holds the token at position p. A call of up to 16 tokens is written into it and
meets the whole ring: where an entry stands does not depend on how tokens are grouped into calls, so that sums over
entries keep their bits.

Whole rows and longer calls are cut into blocks of C tokens, each of which meets the L = W + C entries up to its last (W
rounded up to whole blocks, no more than there are): scores are (C, L) a block, never (T, T).

Shapes   rows (B, T, E), whatever a token keeps; a call of T tokens has n blocks of C.
State    R E numbers a row, in the precision of the weights, at any length and capacity.
Cost     T L pairs; a copy of the ring a call.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.chunks import chunks
from positronic.nn.real_tokens import Order, in_front, take
from positronic.state import Step
from positronic.tree import Replayed

__all__ = ["BLOCK", "RingState", "Sight"]

BLOCK = 64
"""Tokens of a block: fewer leave small products, more are met in vain."""


SPARE = 16
"""Tokens of a call that the ring holds beside the window; longer calls meet blocks."""


@dataclass(frozen=True)
class RingState(Replayed):
    """The last tokens of a sequence."""

    rows: Tensor
    """(B, R, E)"""
    window: int
    rollback: "tuple[RingState, tuple[Tensor, ...]] | None" = None
    """What stood before the last call; its rows (B, T, E), which are real, and the first one's position (B, T)."""

    @staticmethod
    def new(like: Tensor, batch: int, window: int, width: int) -> "RingState":
        """No tokens yet, in the dtype and on the device of `like`."""
        return RingState(like.new_zeros(batch, window + SPARE, width), window)

    def after(self, *rows: Tensor) -> "RingState":
        new, valid, first = rows
        order = Order.of(valid)
        return self._written(in_front(new, order), first[:, 0], order.n_real)

    def extended(self, rows: Tensor, sight: "Sight", step: Step) -> tuple[Tensor, "RingState"]:
        """What a call meets of the ring and of its own rows (B, T, E), and the ring after it.

        Of a short call that is the ring after it, (B, R, E); of a longer one the window before it and then the rows,
        real ones in front, (B, W + T, E).
        """
        rows, tokens, first = rows.to(self.rows.dtype), rows.shape[1], sight.first
        new = in_front(rows, sight.order)
        after = self._written(new, first, tokens if sight.order is None else sight.order.n_real)
        met = after.rows if tokens <= SPARE else torch.cat([self.unrolled(first), new], 1)
        if step.keep_rollback:
            kept = rows, step.real, first[:, None].expand(-1, tokens)
            after = replace(after, rollback=(replace(self, rollback=None), kept))
        return met, after

    def unrolled(self, first: Tensor) -> Tensor:
        """The W tokens before position `first` (B,), oldest first, (B, W, E)."""
        back = torch.arange(-self.window, 0, device=first.device)
        return take(self.rows, (first[:, None] + back) % self.rows.shape[1])

    def _written(self, new: Tensor, first: Tensor, n_real: Tensor | int) -> "RingState":
        """The ring after the first `n_real` of new rows (B, T, E), which stand from position `first` (B,) on."""
        place = _held(first + n_real, self.rows.shape[1]) - first[:, None]  # (B, R) among the new ones
        rows = torch.where((place < 0)[..., None], self.rows, take(new, place.clamp(min=0)))
        return RingState(rows, self.window)


def _held(end: Tensor, entries: int) -> Tensor:
    """(B, R): which position before `end` (B,) each entry of a ring holds; below 0 none."""
    last, entry = end[:, None] - 1, torch.arange(entries, device=end.device)
    return last - (last - entry) % entries


class Sight(NamedTuple):
    """Who sees whom in a call, its real tokens in front."""

    order: Order | None
    """None: there is no padding."""
    first: Tensor
    """(B,): position of the first real token."""
    bias: Tensor
    """(B, n, C, L): 0 where a token of a block sees an entry, else -inf."""

    @staticmethod
    def of(step: Step, window: int) -> "Sight":
        order, first = None, step.positions[:, 0]
        if step.valid is not None:
            order = Order.of(step.valid)
            first = in_front(step.positions, order)[:, 0]
        back = in_front(step.place, order).clamp(max=window - 1)  # (B, T) tokens before each that it sees
        distance, back = _distances(back, first, window, whole=not step.reach)
        bias = torch.zeros((), device=back.device).expand(*back.shape[:3], distance.shape[-1])
        return Sight(order, first, bias.masked_fill((distance < 0) | (distance > back), -torch.inf))

    def blocks(self, x: Tensor) -> Tensor:
        """Tokens (B, T, ...), in the call's order -> (B, n, C, ...), real ones in front, filled up with zeros."""
        return chunks(in_front(x, self.order), self.bias.shape[2])

    def windows(self, x: Tensor, tokens: int) -> Tensor:
        """What each block of so many tokens meets, (B, G, n, L, K), of (B, G, any, K) whose last stand at the end."""
        (_, n, size, extent), before = self.bias.shape, x.shape[2] - tokens
        lead = extent - size
        x = _filled(x, 2, n * size + before - x.shape[2], lead - before)
        if n == 1:
            return x[:, :, None]
        parts = x.unflatten(2, (-1, size))
        return torch.cat([parts[:, :, first : first + n] for first in range(lead // size + 1)], 3)


def _distances(back: Tensor, first: Tensor, window: int, whole: bool) -> tuple[Tensor, Tensor]:
    """How far before each token of a block each entry stands that it meets, (.., C, L), and `back` (B, n, C, 1)."""
    tokens, device = back.shape[1], back.device
    if not whole and tokens <= SPARE:
        position = first[:, None] + torch.arange(tokens, device=device)
        return (position[..., None] - _held(first + tokens, window + SPARE)[:, None])[:, None], back[:, None, :, None]
    size, lead = _extents(tokens, window, whole)
    t, entry = torch.arange(size, device=device), torch.arange(lead + size, device=device)
    return t[:, None] + lead - entry, chunks(back, size)[..., None]


def _extents(tokens: int, window: int, whole: bool) -> tuple[int, int]:
    """Tokens of a block, and entries in front of it that it meets: a short call is one block, and before whole rows
    there is nothing."""
    if tokens <= BLOCK:
        return tokens, 0 if whole else window
    size = min(BLOCK, window)
    lead = window + -window % size
    return size, min(lead, tokens + -tokens % size - size) if whole else lead


def _filled(x: Tensor, axis: int, behind: int, front: int = 0) -> Tensor:
    """With so many zeros along an axis."""
    return F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (front, behind)) if behind or front else x
