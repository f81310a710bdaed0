"""Gates: how an organ joins the residual stream without disturbing it when new.

y = tanh(g) f + leak (f - stopgrad(f))

With g = 0 the forward value is exactly zero, so a model with a new organ equals the model without it bit for bit, while
`leak` lets gradient into the organ from the first step and `g` learns when to be heard; where no gradient is asked for,
the leak, which adds nothing, is left out. A main mixer uses the same gate open (tanh g = 0.9) and without leak.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.nn import init
from positronic.nn.linear import Matrix

__all__ = ["LEAK", "OPEN", "Gate", "GatedLinear"]

LEAK = 0.01
"""Share of the gradient that reaches a closed organ."""
OPEN = math.atanh(0.9)
"""Start of a gate that lets 0.9 of its input pass: 1.4722."""
FEW = 16
"""Tokens of a call for which numbers cost less than operations."""


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
        return gated + self.leak * (y - y.detach()) if self.leak and torch.is_grad_enabled() else gated


class GatedLinear(Matrix):
    """Each share r of the outputs hears E inputs of its own, each through a gate: sum over E of gate_re(x_re W_re^T).

    x (B, T, R, E, V), one x_r a share -> (B, T, D), the shares side by side; weight (D, E V); gate r: leaky, (E, 1).
    Gates stand on the weights, which are small, not on what each x_re says, which is E times the sum: the same by
    linearity, if the leak that weights get from their gate is given to x as well. A few tokens without gradient are
    smaller still, and operations cost more than numbers: there gates stand on x, and all shares are one product with
    the whole weight, of which each keeps its own outputs.
    """

    def __init__(self, n_in: int, shares: Sequence[int]):
        super().__init__(n_in, sum(shares))
        self.shares = list(shares)

    def forward(self, x: Tensor, gates: Sequence[Gate]) -> Tensor:
        if not torch.is_grad_enabled() and x.shape[:2].numel() <= FEW:
            gated = torch.tanh(torch.stack([gate.g for gate in gates])).to(x.dtype) * x
            said = F.linear(gated.flatten(-2), self.weight.to(x.dtype)).split(self.shares, -1)  # (B, T, R, share) each
            return torch.cat([own[..., r, :] for r, own in enumerate(said)], -1)
        parts = zip(x.unbind(-3), self.weight.split(self.shares), gates, strict=True)
        return torch.cat([_gated(*each) for each in parts], -1)


def _gated(x: Tensor, weight: Tensor, gate: Gate) -> Tensor:
    weight = weight.to(x.dtype)  # memories speak in float32, whatever the weights are kept in
    gated, x = gate(weight.unflatten(1, x.shape[-2:])).flatten(1), x.flatten(-2)
    y = F.linear(x, gated)
    return y + gate.leak * F.linear(x - x.detach(), weight.detach()) if torch.is_grad_enabled() else y
