"""Where chunks of tokens lie that are counted over the real tokens of each document, from its first.

    p            real tokens of its document before a token; its slot in its chunk is p % C
    completes    a token in slot C - 1; the chunk is it and the C - 1 real tokens before it

Whatever is made of whole chunks has versions: 0 is the one before the call, j + 1 what the j-th chunk that completes in
it has made of version j, or of a beginning where a document began in this call and the chunk is its first. A token
reads the version at the beginning of its own chunk.

A state keeps a buffer of C tokens, in slot i the last token whose p % C is i; of chunks that began before the call the
first tokens stand there. A call of T tokens completes at most T / C chunks, or (T + C - 1) / C after a state: no device
is asked how many. On the CPU, where looking costs nothing, a short call that completes none says so.

Shapes   places count along [buffer, call] after a state, along the call in whole rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.nn.real_tokens import Order

__all__ = ["Chunks", "Groups"]


class Groups(NamedTuple):
    """Tokens that read the same version, side by side, in calls so long that it pays."""

    members: Tensor
    """(B, G, C): where the tokens of each group stand in the call; groups are not always full."""
    member: Tensor
    """(B, T): which of the G C members a token is; of no meaning where it reads the beginning."""


class Chunks(NamedTuple):
    """Of one call: n chunks of C tokens, in the order in which they complete. None of a mask: nowhere."""

    tokens: Tensor
    """(B, n, C): where the tokens of each chunk stand."""
    complete: Tensor
    """(B, n) bool: rows may complete fewer than n."""
    anew: Tensor | None
    """(B, n) bool: the chunk is made of a beginning."""
    version: Tensor
    """(B, T): which version each token reads, if not the beginning."""
    first: Tensor | None
    """(B, T) bool: the token reads the beginning, as its document has begun in this call, but not with the sequence."""
    groups: Groups | None
    """Only where they were asked for."""
    buffer: Tensor
    """(B, C): where the tokens stand that the buffer holds after the call."""
    held: Tensor
    """(B, C) bool: slots that hold one."""
    forgets: Tensor | None
    """(B,) bool: the last document began in this call and has completed no chunk."""

    @staticmethod
    def of(
        place: Tensor, fresh: Tensor | None, valid: Tensor | None, size: int, continued: bool, grouped: bool = False
    ) -> "Chunks":
        """place (B, T): p; fresh (B, T) bool: where a document begins that is not the one the sequence began with, or
        None for nowhere; continued: after a state; grouped: with groups."""
        order = None if valid is None else Order.of(valid)
        index = torch.arange(place.shape[1], device=place.device)
        count = place.new_full((len(place),), len(index)) if order is None else order.n_real
        place = place if order is None else place.gather(1, order.place)
        # From here on all tokens are counted in the order of the real ones.
        real, slots = index < count[:, None], torch.arange(size, device=place.device)
        ends = real & (place % size == size - 1)
        done = ends.cumsum(1)
        n = _most(ends, size, continued)
        numbers = torch.arange(1, n + 1, device=place.device).repeat(len(place), 1)
        last = torch.searchsorted(done, numbers) if n else numbers  # (B, n) the token that completes each; T: none does
        complete, last = last < len(index), last.clamp(max=len(index) - 1)
        version, newest = done - ends.long(), (count - 1).clamp(min=0)[:, None]
        held = torch.where(count > 0, (place.gather(1, newest)[:, 0] + 1) % size, size)[:, None]
        buffer = (count[:, None] - held + slots).clamp(max=len(index) - 1)
        anew = first = forgets = None
        if fresh is not None:
            new = (fresh if order is None else fresh.gather(1, order.place)).cumsum(1) > 0
            young = new & (place < size)  # before the end of its document's first chunk
            anew = _somewhere(complete & young.gather(1, last))
            first = _somewhere(_back(real & young, order))
            forgets = _somewhere((count > 0) & (young & ~ends).gather(1, newest)[:, 0])
        return Chunks(
            tokens=_along(last[..., None] - (size - 1) + slots, order, slots, continued),
            complete=complete,
            anew=anew,
            version=_back(version, order),
            first=first,
            groups=_groups(F.pad(last + 1, (1, 0)), version, order, size) if grouped else None,
            buffer=_along(buffer, order, slots, continued),
            held=slots < held,
            forgets=forgets,
        )


def _most(ends: Tensor, size: int, continued: bool) -> int:
    """No row completes more chunks than this."""
    tokens = ends.shape[1]
    if continued and tokens < size and _on_host(ends):
        return int(ends.any())
    return (tokens + size - 1) // size if continued else tokens // size


def _groups(begins: Tensor, version: Tensor, order: Order | None, size: int) -> Groups:
    """The C tokens from where each version begins to be read, (B, G)."""
    tokens = version.shape[1]
    slots, index = torch.arange(size, device=begins.device), torch.arange(tokens, device=begins.device)
    members = (begins[..., None] + slots).clamp(max=tokens - 1)
    member = version * size + (index - begins.gather(1, version)).clamp(0, size - 1)
    return Groups(_placed(members, order), _back(member, order))


def _along(ranks: Tensor, order: Order | None, slots: Tensor, continued: bool) -> Tensor:
    """Where (B, ..., C) tokens of the real ones' order stand; those below 0 stand in the buffer, each in its slot."""
    found = _placed(ranks.clamp(min=0), order)
    return torch.where(ranks < 0, slots, found + len(slots)) if continued else found


def _placed(ranks: Tensor, order: Order | None) -> Tensor:
    return ranks if order is None else order.place.gather(1, ranks.flatten(1)).view(ranks.shape)


def _back(x: Tensor, order: Order | None) -> Tensor:
    """(B, T) in the real tokens' order -> in the call's."""
    return x if order is None else x.gather(1, order.rank)


def _somewhere(mask: Tensor) -> Tensor | None:
    """The mask, or None where the host may look and it is empty."""
    return None if _on_host(mask) and not bool(mask.any()) else mask


def _on_host(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
