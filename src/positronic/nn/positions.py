"""A vector for each place in a document, learned, that is added to what tokens are embedded as.

    x_t = E[token_t] + P[place_t]        place_t = real tokens of its document before token t

A document that ends begins the count anew, since what stood before it must not be told by the places of what follows.
A call without a state goes on where `Step.positions` say, as an engine wants that keeps no state of ours.

Shapes   y (B, T, D); P (S, D) for at most S tokens a document.
Init     N(0, 0.02^2).
Source   Radford et al. 2019, GPT-2. There documents in a row count on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.nn import init
from positronic.nn.linear import INIT_STD
from positronic.state import Step

__all__ = ["LearnedPositions"]


class LearnedPositions(nn.Module):
    """The vectors of a call's places, (B, T, D)."""

    def __init__(self, places: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(places, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.weight, INIT_STD)

    def forward(self, step: Step) -> Tensor:
        place = step.place if step.valid is None else step.place * step.valid
        return F.embedding(place, self.weight)
