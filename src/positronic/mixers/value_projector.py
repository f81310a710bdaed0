"""Gated up/down projection of what attention has read, silent when new.

    o <- o + gate((silu(o W_g) * (o W_u)) W_d)

Shapes   o (B, T, H V), heads side by side; W_g, W_u (H V, F), W_d (F, H V).
State    none.
Cost     6 H V F operations a token.
Init     N(0, 0.02^2); the gate closed and leaky.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, Config
from positronic.errors import ConfigError
from positronic.nn.gate import Gate
from positronic.nn.linear import linear
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["ValueProjector", "ValueProjectorConfig"]


@dataclass(frozen=True, kw_only=True)
class ValueProjectorConfig(Config, kind="value_projector"):
    hidden: Annotated[int, AtMost(262_144)] = 256
    """Width between up and down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ConfigError(f"value_projector.hidden is {self.hidden}; use 1 or more, or leave the projector out.")

    def build(self, width: int) -> "ValueProjector":
        """For heads that are `width` wide side by side."""
        return ValueProjector(self, width)


class ValueProjector(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "current": Tap("what it adds to what was read", torch.zeros_like),
    }

    def __init__(self, config: ValueProjectorConfig, width: int):
        super().__init__()
        self.config = config
        self.opening = linear(width, config.hidden)
        self.up = linear(width, config.hidden)
        self.down = linear(config.hidden, width)
        self.gate = Gate()

    def forward(self, o: Tensor, step: Step) -> Tensor:
        said = self.gate(self.down(F.silu(self.opening(o)) * self.up(o)))
        return o + step.tap(self, "current", said)
