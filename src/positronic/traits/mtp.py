"""Multi-token prediction: heads that guess, from one hidden vector, the tokens after the next.

    h^k = h + silu(RMSNorm_k(h) A_k) C_k        k = 1 .. K;  the model's own logits of h^k are a guess of x_t+1+k

Heads work side by side, not one after another, so a whole draft comes from one forward and needs no drafted token.

Shapes   h (..., D) -> (..., K, D), or one head (..., D) -> (..., D).
State    none.
Cost     4 D F operations a token and head, and a row of the vocabulary head for each.
Init     A_k ~ N(0, 0.02^2); C_k zero, so a new head says what the main head says.
Source   Gloeckle et al. 2024, arXiv 2404.19737 (parallel heads); Cai et al. 2024, "Medusa", arXiv 2401.10774 (the
         residual form, zero at the start).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, Config
from positronic.errors import ConfigError
from positronic.lm import FARTHEST
from positronic.nn.linear import linear
from positronic.nn.norm import RMSNorm

__all__ = ["MTP", "DraftHead", "MTPConfig"]


@dataclass(frozen=True, kw_only=True)
class MTPConfig(Config, kind="mtp"):
    heads: Annotated[int, AtMost(1024)] = 4
    """Tokens guessed beyond the next."""
    hidden: Annotated[int, AtMost(262_144)] = 1536
    """Width inside a head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 1 or self.hidden < 1:
            raise ConfigError(
                f"mtp has {self.heads} heads of width {self.hidden}; use 1 or more of each (4 heads are usual), "
                f"or leave mtp out of the model's heads."
            )

    def check_context(self, context: int) -> None:
        """Raise unless a training row of `context` tokens holds a target for every head."""
        if self.heads >= context:
            raise ConfigError(
                f"mtp.heads is {self.heads}, but a row of {context} tokens has nothing to guess that far ahead; "
                f"use at most {context - 1} heads, or a longer context."
            )
        if self.heads > FARTHEST:
            raise ConfigError(f"mtp.heads is {self.heads}; use at most {FARTHEST}, which is as far as training counts.")

    def build(self, d_model: int) -> "MTP":
        return MTP(self, d_model)


class DraftHead(nn.Module):
    """One head: hidden (..., D) -> (..., D), which the model reads as it reads its trunk."""

    def __init__(self, d_model: int, hidden: int):
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.up = linear(d_model, hidden)
        self.down = linear(hidden, d_model, std=0)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(F.silu(self.up(self.norm(hidden))))


class MTP(nn.ModuleList):
    """The heads in order, nearest token first: `lm.DraftHeads`."""

    def __init__(self, config: MTPConfig, d_model: int):
        super().__init__(DraftHead(d_model, config.hidden) for _ in range(config.heads))
        self.config = config

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.stack([head(hidden) for head in self], -2)
