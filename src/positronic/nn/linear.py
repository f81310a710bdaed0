"""Linear maps and embeddings that know how they start."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.kernels.dispatch import without_autocast
from positronic.nn import init

__all__ = ["INIT_STD", "Embedding", "Linear", "residual_std", "router_logits"]

INIT_STD = 0.02
"""Standard deviation of weights at the start (GPT-2's)."""


def residual_std(n_branches: int) -> float:
    """Start of matrices that write to the residual stream: 0.02 / sqrt(branches), so that their sum keeps its size."""
    return INIT_STD / n_branches**0.5


class Linear(nn.Linear):
    """y = x W^T without bias, W ~ N(0, std^2); std 0 starts as a no-op. x (..., n_in) -> (..., n_out).

    Several std: one for each equal share of the outputs, in order.
    """

    def __init__(self, n_in: int, n_out: int, std: float | tuple[float, ...] = INIT_STD):
        self.std = std
        super().__init__(n_in, n_out, bias=False)

    def reset_parameters(self) -> None:
        if self.std == 0:
            init.zeros_(self.weight)
        elif isinstance(self.std, tuple):
            init.normal_(
                self.weight, torch.tensor(self.std).repeat_interleave(self.out_features // len(self.std))[:, None]
            )
        else:
            init.normal_(self.weight, self.std)


LEAST_OUTPUTS = 4


def router_logits(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., D), weight (E, D) -> (..., E) float32, products included: a rounded logit would choose another expert.

    With fewer than 4 outputs MKL's product rounds a row by its place among the others; rows of zeros fill them up.
    """
    experts, weight = len(weight), weight.float()
    if experts < LEAST_OUTPUTS:
        weight = F.pad(weight, (0, 0, 0, LEAST_OUTPUTS - experts))
    with without_autocast(x.device.type):
        return F.linear(x.float(), weight)[..., :experts]


class Embedding(nn.Module):
    """Token ids (B, T) -> vectors (B, T, D); the same matrix serves the head."""

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.weight, INIT_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)
