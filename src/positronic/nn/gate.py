"""Gates: how an organ joins the residual stream without disturbing it when new.

y = tanh(g) f + leak (f - stopgrad(f))

With g = 0 the forward value is exactly zero, so a model with a new organ equals the model without it bit for bit, while
`leak` lets gradient into the organ from the first step and `g` learns when to be heard. A main mixer uses the same gate
open (tanh g = 0.9) and without leak.
"""

import math

import torch
from torch import Tensor, nn

from positronic.nn import init

__all__ = ["LEAK", "OPEN", "Gate", "soft_clamp"]

LEAK = 0.01
"""Share of the gradient that reaches a closed organ."""
OPEN = math.atanh(0.9)
"""Start of a gate that lets 0.9 of its input pass: 1.4722."""


class Gate(nn.Module):
    """One scalar gate, or a `shape` of them, broadcast against what they let pass.

    start 0 is closed, `OPEN` is open; leak is the gradient share of the closed gate.
    """

    def __init__(self, start: float = 0.0, leak: float = LEAK, shape: tuple[int, ...] = ()):
        super().__init__()
        self.start, self.leak = start, leak
        self.g = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.g, self.start)

    def forward(self, y: Tensor) -> Tensor:
        gated = torch.tanh(self.g).to(y.dtype) * y
        return gated + self.leak * (y - y.detach()) if self.leak else gated


def soft_clamp(x: Tensor, bound: float = 10.0) -> Tensor:
    """b erf(sqrt(pi) x / 2b): odd, monotone, slope 1 at 0, inside (-b, b)."""
    return bound * torch.erf(x * (math.sqrt(math.pi) / (2 * bound)))
