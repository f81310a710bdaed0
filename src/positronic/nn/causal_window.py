"""The last few tokens of a document: what convolutions look back on, and whatever compares a token with the last.

    x_t-j    the j-th real token before t, j = n .. 1; zero where that is of another document, or before the first token

Shapes   x (B, T, D); n vectors back for each token (B, T, n, D), oldest first.
State    the last n real vectors of width D. Zeros at the start are the left padding of a whole row, so that cached and
         whole calls read the same numbers.
Cost     none but reading: without padding windows are a view, with it a gather.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.state import State, Step

__all__ = ["WindowState", "look_back", "prepare_look_back"]


@dataclass(frozen=True)
class WindowState(State):
    """The last vectors of a document that a causal convolution reads again."""

    rows: Tensor
    """(B, n, D) the last n real vectors, oldest first."""
    rollback: tuple[Tensor] | None = None
    """(B, T+1, n, D): the same before the last call and after each of its tokens."""

    @staticmethod
    def new(like: Tensor, batch: int, n: int, width: int) -> "WindowState":
        """No tokens yet, in the dtype and on the device of `like`."""
        return WindowState(like.new_zeros(batch, n, width))


def prepare_look_back(step: Step, n: int) -> dict[str, Any]:
    """For a mixer's `prepare`: which of the n vectors back are of a token's document, once a call."""
    return {} if step.segments is None else {_name(n): _reached(step, n)}


def look_back(x: Tensor, n: int, step: Step, state: WindowState | None = None) -> tuple[Tensor, WindowState | None]:
    """x_t-n, .., x_t-1 of all tokens, (B, T, n, D), and the state after the call (None when it had none)."""
    if state is None and step.segments is None:
        padded = F.pad(x, (0, 0, n, 0))
        return torch.stack([padded[:, first : first + x.shape[1]] for first in range(n)], 2), None
    before = WindowState.new(x, len(x), n, x.shape[-1]) if state is None else state
    rows = torch.cat([before.rows.to(x.dtype), x], 1)  # (B, n + T, D)
    if step.valid is None:
        windows = rows.unfold(1, n, 1).mT  # (B, T+1, n, D), views
    else:
        windows = rows[torch.arange(len(x), device=x.device)[:, None, None], _real_places(step.valid, n)]
    found: Tensor | None = step.shared.get(_name(n))
    taps = windows[:, :-1] * (_reached(step, n) if found is None else found).to(x.dtype)
    return taps, None if state is None else WindowState(windows[:, -1], (windows,) if step.keep_rollback else None)


def _name(n: int) -> str:
    return f"reached {n}"


def _reached(step: Step, n: int) -> Tensor:
    """(B, T, n, 1), float32: 1 where a vector back is of the token's document, else 0; oldest first."""
    back = torch.arange(n, 0, -1, device=step.tokens.device)[:, None]
    return (step.place[..., None, None] >= back).float()


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
