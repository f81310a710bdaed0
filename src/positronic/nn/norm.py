"""Norms of what a part reads, statistics in float32 whatever the input is.

    rms_norm     y = x / sqrt(mean(x^2) + epsilon) * w                     w = 1 at the start, unless told otherwise
    layer_norm   y = (x - mean(x)) / sqrt(var(x) + epsilon) * w + b        w = 1, b = 0 at the start

Shapes   x, y (..., width); w, b (width,).
Source   Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467; Ba et al. 2016, "Layer
         Normalization", arXiv 1607.06450, as GPT-2 has it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.nn import init

__all__ = ["QUIET", "LayerNorm", "LayerNormConfig", "NormConfig", "RMSNorm", "RMSNormConfig", "unit"]

EPSILON = 1e-6
QUIET = 0.1
"""Start of a norm before a matrix that writes to the residual stream. Without it, what the matrix reads is about as
small in a new layer; and as an optimizer's steps may have one size, so has what each step adds to the stream."""


@dataclass(frozen=True, kw_only=True)
class NormConfig(Config):
    """What every norm has."""

    epsilon: float = EPSILON
    """Added to the mean square, so that nothing is divided by zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon <= 0:
            raise ConfigError(f"{self.kind}.epsilon is {self.epsilon}; use a number above 0 (1e-6 is usual).")

    def build(self, width: int) -> "RMSNorm | LayerNorm":
        """The module, (..., width) -> (..., width)."""
        raise NotImplementedError(f"{type(self).__name__} must say which module it builds")


@dataclass(frozen=True, kw_only=True)
class RMSNormConfig(NormConfig, kind="rms_norm"):
    """The norm of our own models, and of Llama."""

    def build(self, width: int) -> "RMSNorm":
        return RMSNorm(width, self.epsilon)


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(NormConfig, kind="layer_norm"):
    """The norm of GPT-2."""

    def build(self, width: int) -> "LayerNorm":
        return LayerNorm(width, self.epsilon)


class RMSNorm(nn.Module):
    """(..., width) -> (..., width)."""

    def __init__(self, width: int, epsilon: float = EPSILON, start: float = 1.0):
        super().__init__()
        self.epsilon, self.start = epsilon, start
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.weight, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.epsilon).to(x.dtype)


class LayerNorm(nn.Module):
    """(..., width) -> (..., width)."""

    def __init__(self, width: int, epsilon: float = EPSILON):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.weight, 1.0)
        init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        shape, w, b = self.weight.shape, self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), shape, w, b, self.epsilon).to(x.dtype)


def unit(x: Tensor) -> Tensor:
    """x / |x| along the last axis, of finite slope at 0."""
    return x * (x.square().sum(-1, keepdim=True) + EPSILON).rsqrt()
