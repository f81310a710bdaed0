"""Muon, matrices of one shape together: momentum, then the nearest orthogonal matrix in place of the update.

    m = b m + (1 - b) g      u = (1 - b) g + b m      w <- (1 - lr wd) w - lr 0.2 sqrt(max(n, k)) orthogonal(u)
    orthogonal(u): x = u / |u|, then five times x <- a x + (b A + c A^2) x with A = x x^T, in bfloat16

The same arithmetic as `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which goes matrix by matrix: some forty
kernels each, so that the host was all a small model waited for. Here a shape costs what a matrix did, and a step to be
skipped is decided on the device, without a wait.

Source   Jordan 2024, "Muon"; Liu et al. 2025, arXiv 2502.16982 (scale).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonal"]

COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
EPSILON = 1e-7
SIZE = 0.2
"""Root mean square of an update at rate 1: AdamW's."""


class Muon(torch.optim.Optimizer):
    """Over matrices alone, or several in one tensor, all of which must have a gradient at every step."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.found_inf: Tensor | None = None
        """A scalar on the device, 1 to change nothing: the protocol between gradient scalers and optimizers."""
        self._alike: list[tuple[dict[str, Any], list[Tensor], Tensor]] = []
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for alike in by_shape.values():
                momenta = torch.stack([torch.zeros_like(p) for p in alike])
                self._alike.append((group, alike, momenta))
                self.state.update({p: {"momentum_buffer": m} for p, m in zip(alike, momenta, strict=True)})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "gradients are there already"
        skip = None if self.found_inf is None else self.found_inf.bool()
        for group, alike, momenta in self._alike:
            lr, keep = group["lr"], group["momentum"]
            gradients = torch.stack([_gradient(p) for p in alike])  # (n, .., rows, columns)
            after = momenta.lerp(gradients, 1 - keep)
            update = orthogonal(gradients.lerp(after, keep).flatten(0, -3)).view_as(after).to(after.dtype)
            decay: float | Tensor = 1 - lr * group["weight_decay"]
            if skip is not None:
                after, update = torch.where(skip, momenta, after), update.masked_fill(skip, 0.0)
                decay = torch.where(skip, 1.0, decay)
            momenta.copy_(after)
            torch._foreach_mul_(alike, decay)
            torch._foreach_add_(alike, list(update), alpha=-lr * SIZE * max(alike[0].shape[-2:]) ** 0.5)


def orthogonal(x: Tensor) -> Tensor:
    """(n, rows, columns) -> the same shape in bfloat16, all singular values near 1 (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    x = x.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None, "every matrix of the trunk has a gradient"
    return p.grad
