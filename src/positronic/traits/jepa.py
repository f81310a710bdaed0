"""Joint-embedding prediction: from a token's hidden vector, a guess of the trunk's own output some tokens later.

    p_t = silu(RMSNorm(h_t) P_1) P_2            trained towards the direction of h_t+a, which gets no gradient from it

It is trained with and never decoded with; a model without it has the same logits to the bit.

Shapes   h, p (..., D).
State    none.
Cost     4 D F operations a token, in training alone.
Init     P_1, P_2 ~ N(0, 0.02^2): only the direction of p counts, and a zero vector has none.
Source   Huang et al. 2025, "LLM-JEPA", arXiv 2509.14252: a guess between hidden vectors beside the next-token loss.
         Changed: not two views of one matter, but one text and its own continuation, whose side gets no gradient
         (Grill et al. 2020, "BYOL", arXiv 2006.07733).
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, Config
from positronic.errors import ConfigError
from positronic.lm import FARTHEST
from positronic.nn.linear import linear
from positronic.nn.norm import RMSNorm

__all__ = ["JEPA", "JEPAConfig"]


@dataclass(frozen=True, kw_only=True)
class JEPAConfig(Config, kind="jepa"):
    ahead: Annotated[int, AtMost(1024)] = 4
    """Tokens between what is read and what is guessed."""
    hidden: Annotated[int, AtMost(262_144)] = 1536
    """Width between both matrices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ahead < 1 or self.hidden < 1:
            raise ConfigError(
                f"jepa has ahead {self.ahead} and hidden {self.hidden}; use 1 or more of each (4 tokens ahead is "
                f"usual), or leave jepa out of the model's heads."
            )

    def check_context(self, context: int) -> None:
        """Raise unless a training row of `context` tokens holds something to guess."""
        if self.ahead >= context:
            raise ConfigError(
                f"jepa.ahead is {self.ahead}, but a row of {context} tokens has nothing to guess that far ahead; "
                f"use at most {context - 1}, or a longer context."
            )
        if self.ahead > FARTHEST:
            raise ConfigError(
                f"jepa.ahead is {self.ahead}; use at most {FARTHEST}, which is as far as training counts."
            )

    def build(self, d_model: int) -> "JEPA":
        return JEPA(self, d_model)


class JEPA(nn.Module):
    """hidden (..., D) -> (..., D): `lm.LatentHead`."""

    def __init__(self, config: JEPAConfig, d_model: int):
        super().__init__()
        self.config = config
        self.ahead = config.ahead
        self.norm = RMSNorm(d_model)
        self.up = linear(d_model, config.hidden)
        self.down = linear(config.hidden, d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(F.silu(self.up(self.norm(hidden))))
