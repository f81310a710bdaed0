"""Root-mean-square norm, statistics in float32 whatever the input is.

y = x / sqrt(mean(x^2) + 1e-6) * w        w = 1 at the start

Source   Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.nn import init

__all__ = ["RMSNorm"]

EPSILON = 1e-6


class RMSNorm(nn.Module):
    """(..., width) -> (..., width)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.weight, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), EPSILON).to(x.dtype)
