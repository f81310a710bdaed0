"""A bias that keeps experts equally busy: it takes part in choosing them and in nothing else.

    choice from s + b        db_e = load_e - mean over experts of load        load: real tokens that chose e

whatever gradient comes from above, so that loads add up over micro-batches, and over processes up to a factor, like
any gradient. `train.balance` moves b by the sign of it.

Source   Wang et al. 2024, "Auxiliary-loss-free load balancing", arXiv 2408.15664.
"""

from typing import Any

import torch
from torch import Tensor, nn

from positronic.nn import init

__all__ = ["LoadBias"]


class LoadBias(nn.Module):
    def __init__(self, experts: int):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.zeros_(self.bias)

    def forward(self, scores: Tensor) -> Tensor:
        """What is chosen by, (..., E)."""
        return scores + self.bias.detach()

    def counted(self, y: Tensor, load: Tensor) -> Tensor:
        """y itself; on the way back from it the bias gets its gradient, from load (E,)."""
        load = load.to(self.bias.dtype)
        passed: Tensor = _Counted.apply(y, self.bias, load - load.mean())
        return passed


class _Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor, excess: Tensor) -> Tensor:
        ctx.save_for_backward(excess)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (excess,) = ctx.saved_tensors
        return gradient, excess, None
