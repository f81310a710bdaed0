"""The last few tokens of a document: what convolutions look back on, and whatever compares a token with the last.

    x_t-j    the j-th real token before t, j = 1 .. n; zero where that is of another document, or before the first token

Shapes   x (B, T, D); n vectors back for each token.
State    the last n real vectors of width D. Zeros at the start are the left padding of a whole row, so that cached and
         whole calls read the same numbers.
Cost     none but reading: without padding every tap is a shifted view, with it a gather.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.state import State, Step

__all__ = ["TailState", "look_back"]


@dataclass(frozen=True)
class TailState(State):
    """The last vectors of a document that a causal convolution reads again."""

    rows: Tensor
    """(B, n, D) the last n real vectors, oldest first."""
    trail: tuple[Tensor] | None = None
    """(B, T+1, n, D): the same before the last call and after each of its tokens."""

    @staticmethod
    def new(like: Tensor, batch: int, n: int, width: int) -> "TailState":
        """No tokens yet, in the dtype and on the device of `like`."""
        return TailState(like.new_zeros(batch, n, width))


def look_back(x: Tensor, n: int, step: Step, state: TailState | None = None) -> tuple[list[Tensor], TailState | None]:
    """x_t-1, .., x_t-n of all tokens, (B, T, D) each, and the state after the call (None when it had none)."""
    if state is None and step.segments is None:
        return [F.pad(x, (0, 0, j, 0))[:, : x.shape[1]] for j in range(1, n + 1)], None
    before = TailState.new(x, len(x), n, x.shape[-1]) if state is None else state
    rows = torch.cat([before.rows.to(x.dtype), x], 1)  # (B, n + T, D)
    if step.valid is None:
        windows = rows.unfold(1, n, 1).mT  # (B, T+1, n, D), views
    else:
        windows = rows[torch.arange(len(x), device=x.device)[:, None, None], _real_places(step.valid, n)]
    place = step.place[..., None]
    taps = [windows[:, :-1, n - j] * (place >= j).to(x.dtype) for j in range(1, n + 1)]
    return taps, None if state is None else TailState(windows[:, -1], (windows,) if step.keep_trail else None)


def _real_places(valid: Tensor, n: int) -> Tensor:
    """(B, T+1, n): where, behind n vectors of a tail, the last n real ones stand before and after each token."""
    real = F.pad(valid, (n, 0), value=True)
    index = torch.arange(real.shape[1], device=valid.device)
    newest = index.masked_fill(~real, 0).cummax(1).values  # (B, n + T) the last real one up to here
    place = newest[:, n - 1 :]
    places = [place]
    for _ in range(1, n):
        place = newest.gather(1, (place - 1).clamp(min=0))
        places.append(place)
    return torch.stack(places[::-1], -1)
