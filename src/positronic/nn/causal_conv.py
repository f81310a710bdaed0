"""Causal depthwise convolution with a state.

    z_t = w_0 (*) x_t + sum over j = 1 .. kernel - 1 of w_j (*) x_t-j        inside one document

Shapes   x, z (B, T, D); w (kernel, D).
State    the last kernel - 1 inputs.
Cost     2 D kernel operations a token. Taps are summed in the same order however tokens are grouped into calls, so that
         a row keeps its bits; a training call keeps kernel - 1 times its input.
Init     w_0 = 1, the others N(0, 0.02^2): nearly the identity. Of the first `shifted` channels every second begins with
         the token before in place of its own, w_0 = 0 and w_1 = 1 + N(0, 0.02^2).
"""

from typing import Any

import torch
from torch import Tensor, nn

from positronic.nn import init
from positronic.nn.causal_window import WindowState, look_back, prepare_look_back
from positronic.nn.linear import INIT_STD
from positronic.state import Step

__all__ = ["CausalConv"]


class CausalConv(nn.Module):
    def __init__(self, width: int, kernel: int, shifted: int = 0):
        super().__init__()
        self.shifted = shifted
        self.now = nn.Parameter(torch.empty(width))
        self.past = nn.Parameter(torch.empty(kernel - 1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        before = torch.zeros_like(self.now)
        before[1 : self.shifted : 2] = 1.0
        init.copy_(self.now, 1 - before)
        init.normal_(self.past, INIT_STD)
        init.copy_(self.past, torch.cat((self.past[:1] + before, self.past[1:])))

    def init_state(self, batch: int) -> WindowState:
        return WindowState.new(self.now, batch, *self.past.shape)

    def prepare(self, step: Step) -> dict[str, Any]:
        """How far back tokens may look."""
        return prepare_look_back(step, len(self.past))

    def forward(self, x: Tensor, step: Step, state: WindowState | None = None) -> tuple[Tensor, WindowState | None]:
        """x (B, T, D) -> z (B, T, D), the state after the call."""
        taps, after = look_back(x, len(self.past), step, state)
        z = self.now * x + (self.past.flip(0) * taps).sum(-2)
        return z.to(x.dtype), after
