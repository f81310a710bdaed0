"""A bound that bends instead of breaking: what attention scores, currents and the mixers' outputs are kept in by."""

import math

import torch
from torch import Tensor

__all__ = ["soft_clamp"]


def soft_clamp(x: Tensor, bound: float = 10.0) -> Tensor:
    """b erf(sqrt(pi) x / 2b): odd, monotone, slope 1 at 0, inside (-b, b)."""
    return bound * torch.erf(x * (math.sqrt(math.pi) / (2 * bound)))
