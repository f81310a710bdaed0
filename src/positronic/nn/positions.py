"""A vector for each place in a document, learned, that is added to what tokens are embedded as.

    x_t = E[token_t] + P[place_t]        place_t = real tokens of its document before token t

A document that ends begins the count anew, since what stood before it must not be told by the places of what follows.
A call without a state goes on where `Step.positions` say, as an engine wants that keeps no state of ours.

Shapes   y (B, T, D); P (S, D) for at most S tokens a document.
State    of each row the document that it is in, and the tokens of it so far: 16 bytes a row.
Init     N(0, 0.02^2).
Source   Radford et al. 2019, GPT-2. There documents in a row count on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.nn import init
from positronic.nn.linear import INIT_STD
from positronic.state import Step

__all__ = ["LearnedPositions", "PlaceState"]


@dataclass(frozen=True)
class PlaceState:
    """How far a row is in its document."""

    count: Tensor
    """(B,) tokens of the document so far."""
    document: Tensor
    """(B,) its number."""
    trail: tuple[Tensor, Tensor] | None = None
    """(B, T+1) each: both before the last call and after each of its tokens."""

    def commit(self, path: Sequence[int]) -> "PlaceState":
        assert self.trail is not None, "a state without a trail is refused before its parts are asked"
        count, document = self.trail
        return PlaceState(count[:, len(path)], document[:, len(path)])

    def select(self, rows: Tensor) -> "PlaceState":
        return PlaceState(self.count[rows], self.document[rows])


class LearnedPositions(nn.Module):
    """The vectors of a call's places (B, T, D), and the state after it; None where none was given."""

    def __init__(self, places: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(places, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.weight, INIT_STD)

    def init_state(self, batch: int) -> PlaceState:
        zero = torch.zeros(batch, dtype=torch.long, device=self.weight.device)
        return PlaceState(zero, zero)

    def forward(self, step: Step, state: PlaceState | None = None) -> tuple[Tensor, PlaceState | None]:
        real = torch.ones_like(step.tokens) if step.valid is None else step.valid.long()
        read = real.cumsum(1) - real  # (B, T) real tokens of this call before each
        started = step.positions[:, 0] if state is None else state.count
        first = torch.zeros_like(started) if state is None else state.document
        documents = torch.cat([first[:, None], step.documents(first)], 1)  # (B, T+1)
        begins = documents[:, 1:] != documents[:, :-1]
        begun = torch.where(begins, read, -started[:, None]).cummax(1).values  # where each token's document began
        y = F.embedding((read - begun) * real, self.weight)
        if state is None:
            return y, None
        count = torch.cat([started[:, None], read - begun + real], 1)  # (B, T+1)
        trail = (count, documents) if step.keep_trail else None
        return y, PlaceState(count[:, -1], documents[:, -1], trail)
