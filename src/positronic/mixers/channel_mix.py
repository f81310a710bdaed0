"""Channel mixing by one hidden layer, a head of a mixture.

    y = gelu(n A) C          n is normed by the mixture

Shapes   n, y (B, T, D); A (D, F), C (F, D).
State    none: each token is mixed alone.
Cost     4 D F operations a token.
Init     N(0, 0.02^2); C N(0, (0.02 / sqrt(residual branches))^2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.lm import MixerOutput
from positronic.nn.linear import linear, residual_std
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["ChannelMix", "ChannelMixConfig"]


@dataclass(frozen=True, kw_only=True)
class ChannelMixConfig(MixerConfig, kind="channel_mix"):
    hidden: Annotated[int, AtMost(262_144)] = 768
    """Width of the hidden layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ConfigError(f"channel_mix.hidden is {self.hidden}; use 1 or more (d_model is usual).")

    def build(self, d_model: int, n_branches: int = 1) -> "ChannelMix":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return ChannelMix(self, d_model, n_branches)


class ChannelMix(nn.Module):
    """A head of a mixture: x has been normed."""

    taps: ClassVar[Mapping[str, Tap]] = {
        "current": Tap("what it says as a head of a mixture", torch.zeros_like),
    }

    def __init__(self, config: ChannelMixConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        self.up = linear(d_model, config.hidden)
        self.down = linear(config.hidden, d_model, residual_std(n_branches))

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        return MixerOutput(self.down(F.gelu(self.up(x))))
