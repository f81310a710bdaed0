"""The last few tokens of a document: what convolutions look back on, and whatever compares a token with the last.

    x_t-j    the j-th real token before t, j = 1 .. n; zero where that is of another document, or before the first token

Shapes   x (B, T, D); n vectors back for each token.
State    the last n real vectors of width D and the numbers of their documents. Zeros at the start are the left padding
         of a whole row, so that cached and whole calls read the same numbers.
Cost     none but reading: without padding every tap is a shifted view, with it a gather.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.state import Step

__all__ = ["TailState", "look_back"]


@dataclass(frozen=True)
class TailState:
    """The last vectors of a document that a causal convolution reads again."""

    rows: Tensor
    """(B, n, D) the last n real vectors, oldest first."""
    documents: Tensor
    """(B, n) the document each belongs to."""
    trail: tuple[Tensor, Tensor] | None = None
    """(B, T+1, n, D) and (B, T+1, n): both before the last call and after each of its tokens."""

    @staticmethod
    def new(like: Tensor, batch: int, n: int, width: int) -> "TailState":
        """No tokens yet, in the dtype and on the device of `like`."""
        documents = torch.zeros(batch, n, dtype=torch.long, device=like.device)
        return TailState(like.new_zeros(batch, n, width), documents)

    def commit(self, path: Sequence[int]) -> "TailState":
        assert self.trail is not None, "DecodeState.commit asks for the trail"
        rows, documents = self.trail
        return TailState(rows[:, len(path)], documents[:, len(path)])

    def select(self, rows: Tensor) -> "TailState":
        return TailState(self.rows[rows], self.documents[rows])


def look_back(x: Tensor, n: int, step: Step, state: TailState | None = None) -> tuple[list[Tensor], TailState | None]:
    """x_t-1, .., x_t-n of all tokens, (B, T, D) each, and the state after the call (None when it had none)."""
    if state is None and step.segments is None:
        return [F.pad(x, (0, 0, j, 0))[:, : x.shape[1]] for j in range(1, n + 1)], None
    before = TailState.new(x, len(x), n, x.shape[-1]) if state is None else state
    own, tokens = step.documents(before.documents[:, -1]), x.shape[1]  # (B, T)
    rows = torch.cat([before.rows.to(x.dtype), x], 1)  # (B, n + T, D)
    documents = torch.cat([before.documents, own], 1)
    if step.valid is None:
        backs = [(rows[:, at : at + tokens], documents[:, at : at + tokens]) for at in reversed(range(n))]
        windows = rows.unfold(1, n, 1).mT, documents.unfold(1, n, 1)  # (B, T+1, n, D) and (B, T+1, n), views
    else:
        batch, places = torch.arange(len(x), device=x.device)[:, None, None], _real_places(step.valid, n)
        windows = rows[batch, places], documents[batch, places]
        backs = [(windows[0][:, :-1, at], windows[1][:, :-1, at]) for at in reversed(range(n))]
    taps = [row * (document == own)[..., None].to(x.dtype) for row, document in backs]
    if state is None:
        return taps, None
    last_rows, last_documents = (window[:, -1] for window in windows)
    return taps, TailState(last_rows, last_documents, windows if step.keep_trail else None)


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
