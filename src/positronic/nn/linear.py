"""Linear maps and embeddings that know how they start."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.kernels.autocast import without_autocast
from positronic.nn import init

__all__ = ["INIT_STD", "Embedding", "Matrices", "Matrix", "Router", "linear", "residual_std"]

INIT_STD = 0.02
"""Standard deviation of weights at the start (GPT-2's)."""
LEAST_OUTPUTS = 4

Spread = float | tuple[float, ...]
"""Standard deviation at the start; several: one for each equal share of the outputs, in order."""


def residual_std(n_branches: int) -> float:
    """Start of matrices that write to the residual stream: 0.02 / sqrt(branches), so that their sum keeps its size."""
    return INIT_STD / n_branches**0.5


def linear(n_in: int, n_out: int, std: Spread = INIT_STD, bias: bool = False, *, ternary: bool = False) -> nn.Linear:
    """y = x W^T, W ~ N(0, std^2), and b, 0 at the start, if asked for; std 0 starts as a no-op.

    x (..., n_in) -> y (..., n_out). ternary: `nn.ternary.convert` may round it.

    It is PyTorch's own class, by which adapters and quantisers know what they may stand beside or replace. Whoever
    builds on it calls it: what it holds in place of a matrix may then be anything.
    """
    made = nn.Linear(n_in, n_out, bias=False, device="meta")  # which draws nothing
    made.weight = nn.Parameter(torch.empty(n_out, n_in))
    if bias:
        made.bias = nn.Parameter(torch.empty(n_out))
    vars(made)["ternary"] = ternary
    init.starts(made, partial(_draw, std=std))
    init.begin(made)
    return made


class Matrix(nn.Module):
    """A matrix (n_out, n_in) that is applied in a way of its own, so that no tool takes it for a linear map."""

    def __init__(self, n_in: int, n_out: int, std: Spread = INIT_STD):
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _draw(self.weight, self.std)


class Matrices(nn.Module):
    """n matrices of one shape, (n, n_out, n_in), each for inputs of its own, applied in a way of their own."""

    def __init__(self, n: int, n_in: int, n_out: int, std: float = INIT_STD, *, ternary: bool = False):
        super().__init__()
        self.std, self.ternary = std, ternary
        self.weight = nn.Parameter(torch.empty(n, n_out, n_in))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _draw(self.weight, self.std)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What to multiply: x (..., n_in) and the matrices."""
        return x, self.weight


class Router(Matrix):
    """x (..., n_in) -> logits (..., n_out) float32, products included: a rounded logit would choose another expert.

    With fewer than 4 outputs MKL's product rounds a row by its place among the others; rows of zeros fill them up.
    """

    def forward(self, x: Tensor) -> Tensor:
        experts, weight = len(self.weight), self.weight.float()
        if experts < LEAST_OUTPUTS:
            weight = F.pad(weight, (0, 0, 0, LEAST_OUTPUTS - experts))
        with without_autocast(x.device.type):
            return F.linear(x.float(), weight)[..., :experts]


def _draw(weight: Tensor, std: Spread) -> None:
    if std == 0:
        init.zeros_(weight)
    elif isinstance(std, tuple):
        init.normal_(weight, torch.tensor(std).repeat_interleave(len(weight) // len(std))[:, None])
    else:
        init.normal_(weight, std)


class Embedding(nn.Embedding):
    """Token ids (B, T) -> vectors (B, T, D); the same matrix serves the head, which reads `weight` at every call."""

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__(vocab_size, d_model)

    def reset_parameters(self) -> None:
        init.normal_(self.weight, INIT_STD)
