"""Local convolution: a causal depthwise convolution between two maps, a head of a mixture.

    y = silu(conv(n W_in)) W_out          n is normed by the mixture

Shapes   n, y (B, T, D).
State    the last kernel - 1 rows of n W_in.
Cost     4 D^2 + 2 D kernel operations a token.
Init     N(0, 0.02^2); W_out N(0, (0.02 / sqrt(residual branches))^2); the convolution nearly the identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.lm import MixerOutput
from positronic.nn.causal_conv import CausalConv
from positronic.nn.causal_window import WindowState
from positronic.nn.linear import linear, residual_std
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["LocalConv", "LocalConvConfig"]


@dataclass(frozen=True, kw_only=True)
class LocalConvConfig(MixerConfig, kind="local_conv"):
    kernel: Annotated[int, AtMost(256)] = 5
    """Tokens a token sees, itself included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel < 2:
            raise ConfigError(f"local_conv.kernel is {self.kernel}, which sees no other token; use 2 or more (5).")

    def build(self, d_model: int, n_branches: int = 1) -> "LocalConv":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return LocalConv(self, d_model, n_branches)


class LocalConv(nn.Module):
    """A head of a mixture: x has been normed."""

    taps: ClassVar[Mapping[str, Tap]] = {
        "current": Tap("what it says as a head of a mixture", torch.zeros_like),
    }

    def __init__(self, config: LocalConvConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        self.into = linear(d_model, d_model)
        self.conv = CausalConv(d_model, config.kernel)
        self.out = linear(d_model, d_model, residual_std(n_branches))

    def init_state(self, batch: int, capacity: int = 0) -> WindowState:
        return self.conv.init_state(batch)

    def prepare(self, step: Step) -> dict[str, Any]:
        """What its convolution wants computed once a call."""
        return self.conv.prepare(step)

    def forward(self, x: Tensor, step: Step, state: WindowState | None = None) -> MixerOutput:
        z, after = self.conv(self.into(x), step, state)
        return MixerOutput(self.out(F.silu(z)), after)
