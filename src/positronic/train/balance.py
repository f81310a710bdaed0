"""Biases that keep experts busy: a fixed step against the sign of how much too busy each one was.

    b <- b - 0.001 sign(load - mean load)        the gradient of a `LoadBias`; no rate, no memory, no decay

Source   Wang et al. 2024, arXiv 2408.15664, algorithm 1.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

__all__ = ["Balance"]

STEP = 1e-3


class Balance(torch.optim.Optimizer):
    """Over such biases alone."""

    def __init__(self, biases: Iterable[nn.Parameter]):
        super().__init__(biases, {})
        self.found_inf: Tensor | None = None
        """A scalar on the device, 1 to change nothing: the protocol between gradient scalers and optimizers."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "gradients are there already"
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        signs = [p.grad.sign() for p in moved]
        if self.found_inf is not None:
            signs = [sign.masked_fill(self.found_inf.bool(), 0.0) for sign in signs]
        torch._foreach_add_(moved, signs, alpha=-STEP)
