"""The head: hidden vectors to logits through the embedding itself.

logits = s * norm(h) E^T        s learned, 1 at the start, kept in [0.05, 20]; a model may have another matrix for E
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.nn import init
from positronic.nn.linear import Embedding
from positronic.nn.norm import NormConfig, RMSNormConfig

__all__ = ["LMHead"]

RMS = RMSNormConfig()
SMALLEST_SCALE, LARGEST_SCALE = 0.05, 20.0


class LMHead(nn.Module):
    """hidden (..., D) -> logits (..., W). The embedding is handed in at the call: it belongs to the model."""

    def __init__(self, d_model: int, norm: NormConfig = RMS):
        super().__init__()
        self.norm = norm.build(d_model)
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.scale, 1.0)

    def scaled(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D): what the embedding is multiplied by."""
        return self.norm(hidden) * self.scale.clamp(SMALLEST_SCALE, LARGEST_SCALE)

    def forward(self, hidden: Tensor, embedding: Embedding) -> Tensor:
        return F.linear(self.scaled(hidden), embedding.weight)
