"""Linear maps whose weights are three values: trained as floats that are rounded at every call.

    W~ = (1 - l) W + l W_q     x~ = (1 - l) x + l x_q     y = x~ W~^T        dL/dW = dL/dW~    dL/dx = dL/dx~

with W_q and x_q as in `kernels.ternary`, and l the share of the way from float (0, to the bit) to ternary (1). The
gradient passes through the rounding as if it were not there: x~ is what meets the gradient of y, W~ what carries it on.
Rounding is float32 under autocast too; the product alone is not.

A float matrix and its ternary form have the same parameter under the same name, the same start and the same optimizer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.kernels.autocast import without_autocast
from positronic.kernels.ternary import BLOCK, Scale, quantised_activations, quantised_weights
from positronic.nn import init
from positronic.nn.linear import Matrices

__all__ = ["BitLinear", "BitMatrices", "TernaryConfig", "convert"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TernaryConfig(Config, kind="ternary"):
    group: Literal[64, 128] = 128
    """Columns that have one scale; 128 can be packed."""
    scale: Scale = "absmean"
    """What a scale is: the mean or the median of sizes in a group, or the mean over the whole matrix."""
    activations: bool = True
    """Round what is multiplied to 255 levels a block of 64."""


class Rounding(nn.Module):
    """How a matrix and what it meets are rounded."""

    share: Tensor

    def __init__(self, config: TernaryConfig):
        super().__init__()
        self.config = config
        self.register_buffer("share", torch.empty(()), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.share, 1.0)

    def weight(self, w: Tensor) -> Tensor:
        """W~ (..., N, K)."""
        return _Through.apply(w, self.share, self._weights)

    def activations(self, x: Tensor) -> Tensor:
        """x~ (..., K)."""
        if not self.config.activations:
            return x
        return _Through.apply(x, self.share, _levels)

    def _weights(self, w: Tensor) -> Tensor:
        return quantised_weights(w, self.config.group, self.config.scale).weights()


class BitLinear(nn.Linear):
    """A linear map of PyTorch's own, rounded."""

    def __init__(self, replaced: nn.Linear, config: TernaryConfig):
        super().__init__(replaced.in_features, replaced.out_features, bias=False, device="meta")
        self.weight, self.bias = replaced.weight, replaced.bias
        init.starts(self, init.start_of(replaced))
        self.rounding = Rounding(config)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.rounding.activations(x), self.rounding.weight(self.weight), self.bias)


class BitMatrices(Matrices):
    """The same of matrices that share a tensor."""

    def __init__(self, replaced: Matrices, config: TernaryConfig):
        n, n_out, n_in = replaced.weight.shape
        super().__init__(n, n_in, n_out, replaced.std)
        self.weight = replaced.weight
        self.rounding = Rounding(config)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.rounding.activations(x), self.rounding.weight(self.weight)


def convert(model: M, config: TernaryConfig) -> M:
    """Put rounded maps in the place of those that mixers have marked as ternary; the model itself.

    Raises `ConfigError` for a map whose width no block divides.
    """
    for path, module in list(model.named_modules()):
        if not getattr(module, "ternary", False):
            continue
        weight: Any = module.weight
        if weight.shape[-1] % BLOCK:
            raise ConfigError(
                f"{path} reads {weight.shape[-1]} numbers, and ternary weights come in blocks of {BLOCK}; use widths "
                f"that are multiples of {BLOCK}, or weights=None."
            )
        parent, _, name = path.rpartition(".")
        made = BitLinear(module, config) if isinstance(module, nn.Linear) else BitMatrices(module, config)
        setattr(model.get_submodule(parent), name, made)
    return model


def _levels(x: Tensor) -> Tensor:
    return quantised_activations(x).values()


class _Through(torch.autograd.Function):
    """(1 - share) x + share rounded(x), whose gradient is that of x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        with without_autocast(x.device.type):
            kept = x.float()
            return ((1 - share) * kept + share * rounded(kept)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None
