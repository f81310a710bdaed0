"""HyperFFN: three channel mixers of different kinds, weighed for each token.

    n   = RMSNorm(x)
    y_1 = (silu(n W_gate) * (n W_up)) W_down           SwiGLU
    y_2 = silu(conv(n)) P                              separable convolution, causal
    y_3 = n U V                                        low rank, linear
    y   = sum_m pi_m y_m        pi = softmax(n W_r)

Shapes   x, y (B, T, D); pi (B, T, 3), float32.
State    the last kernel - 1 rows of n.
Cost     2 D (3 F + D + 2 rank) operations a token.
Init     N(0, 0.02^2); W_down, P and V N(0, (0.02 / sqrt(residual branches))^2); W_r 0: equal weights.
Source   Shazeer 2020, arXiv 2002.05202 (SwiGLU); Hu et al. 2021, arXiv 2106.09685 (low rank beside a map).
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
from positronic.nn.linear import Router, linear, residual_std
from positronic.nn.norm import RMSNorm
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["HyperFFN", "HyperFFNConfig"]


@dataclass(frozen=True, kw_only=True)
class HyperFFNConfig(MixerConfig, kind="hyper_ffn"):
    hidden: Annotated[int, AtMost(262_144)] = 1920
    """Width of the SwiGLU; a multiple of 128 runs fastest."""
    kernel: Annotated[int, AtMost(256)] = 5
    """Tokens the convolution sees, a token itself included."""
    rank: Annotated[int, AtMost(65_536)] = 32
    """Of the linear branch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1 or self.kernel < 2 or self.rank < 1:
            raise ConfigError(
                f"hyper_ffn has width {self.hidden}, kernel {self.kernel} and rank {self.rank}; use 1, 2 and 1 or more "
                f"(5/2 of d_model, 5 and 32 are usual)."
            )

    def build(self, d_model: int, n_branches: int = 1) -> "HyperFFN":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return HyperFFN(self, d_model, n_branches)


class HyperFFN(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "weights": Tap("shares of its three parts, (B, T, 3)"),
        "hidden": Tap("units, (B, T, F)"),
    }

    def __init__(self, config: HyperFFNConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        out_std = residual_std(n_branches)
        self.norm = RMSNorm(d_model)
        self.gate = linear(d_model, config.hidden)
        self.up = linear(d_model, config.hidden)
        self.down = linear(config.hidden, d_model, out_std)
        self.conv = CausalConv(d_model, config.kernel)
        self.mix = linear(d_model, d_model, out_std)
        self.narrow = linear(d_model, config.rank)
        self.widen = linear(config.rank, d_model, out_std)
        self.router = Router(d_model, 3, std=0)

    def init_state(self, batch: int, capacity: int = 0) -> WindowState:
        return self.conv.init_state(batch)

    def prepare(self, step: Step) -> dict[str, Any]:
        """What its convolution wants computed once a call."""
        return self.conv.prepare(step)

    def forward(self, x: Tensor, step: Step, state: WindowState | None = None) -> MixerOutput:
        n = self.norm(x)
        z, after = self.conv(n, step, state)
        weights = self.router(n).softmax(-1)
        weights = step.tap(self, "weights", weights).to(n.dtype)  # (B, T, 3)
        hidden = step.tap(self, "hidden", F.silu(self.gate(n)) * self.up(n))  # (B, T, F)
        first, second, third = weights.split(1, -1)
        y = torch.addcmul(first * self.down(hidden), second, self.mix(F.silu(z)))
        return MixerOutput(torch.addcmul(y, third, self.widen(self.narrow(n))), after)
