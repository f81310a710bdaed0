"""Span knot: a gated delta of its own kind, which may follow the flow of its memory exactly (EFLA).

    without EFLA     gated delta, to the bit
    with EFLA        keys keep their length: lambda = |k|^2, b = softplus(n W_b), beta = (1 - exp(-b lambda)) / lambda

A memory that moves along dS/dt = -S k k^T + v k^T for a time b ends at S (I - beta k k^T) + beta v k^T with this beta,
which is b (1 - b lambda / 2) where lambda is below 1e-6. As beta lambda < 1, any b is stable. Were keys of length 1,
EFLA would only be another name for beta; so it is the keys' own length that says how far a token moves the memory.

Shapes, state, cost, weights and init are those of `gated_delta`.
Source   Lei, Zhang and Poria 2025, "Error-Free Linear Attention is a Free Lunch", arXiv 2512.12602. Here the memory
         also fades between writes, as in gated delta.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.mixers.gated_delta import GatedDelta, GatedDeltaConfig, unit_keys

__all__ = ["SpanKnotConfig", "exact_flow", "flowing_keys"]

SHORT = 1e-6
"""Squared length of a key below which a series stands in place of a quotient."""


@dataclass(frozen=True, kw_only=True)
class SpanKnotConfig(GatedDeltaConfig, kind="span_knot"):
    efla: bool = False
    """Write by the exact flow of the memory, with keys of any length, in place of one step of it."""

    def build(self, d_model: int, n_branches: int = 1) -> GatedDelta:
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return GatedDelta(self, d_model, n_branches, flowing_keys if self.efla else unit_keys)


def flowing_keys(k: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (B, T, H, K) as they are, and the strength that a flow for a time of softplus(logits) comes to."""
    return k, exact_flow(-F.logsigmoid(-logits), k.square().sum(-1))


def exact_flow(time: Tensor, square: Tensor) -> Tensor:
    """(1 - exp(-b lambda)) / lambda, for times b and squared lengths lambda."""
    series = time * (1 - time * square / 2)
    return torch.where(square < SHORT, series, -torch.expm1(-time * square) / square.clamp(min=SHORT))
