"""SwiGLU: the gated channel mixer every other channel mixer is measured against.

y = (silu(x W_gate) * (x W_up)) W_down        x normed first; a learned vector behind each matrix only if asked for
inner_norm:   y = RMSNorm(silu(x W_gate) * (x W_up)) W_down

Shapes   x, y (B, T, D); hidden (B, T, F).
State    none: each token is mixed alone.
Cost     6 D F operations a token, forward.
Init     N(0, 0.02^2), vectors 0; W_down N(0, (0.02 / sqrt(residual branches))^2), the gain before it 0.1.
Source   Shazeer 2020, "GLU Variants Improve Transformer", arXiv 2002.05202.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from positronic.lm import MixerOutput
from positronic.mixers.feed_forward import FeedForwardConfig
from positronic.nn.linear import linear, residual_std
from positronic.nn.norm import QUIET, RMSNorm
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["SwiGLU", "SwiGLUConfig"]


@dataclass(frozen=True, kw_only=True)
class SwiGLUConfig(FeedForwardConfig, kind="swiglu"):
    usual: ClassVar[str] = "8/3 of d_model"

    inner_norm: bool = False
    """RMSNorm of the units before the way down."""

    def build(self, d_model: int, n_branches: int = 1) -> "SwiGLU":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return SwiGLU(self, d_model, n_branches)


class SwiGLU(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "hidden": Tap("units, (B, T, F)"),
    }

    def __init__(self, config: SwiGLUConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        self.norm = config.norm.build(d_model)
        self.gate = linear(d_model, config.hidden, bias=config.bias, ternary=True)
        self.up = linear(d_model, config.hidden, bias=config.bias, ternary=True)
        self.inner_norm = RMSNorm(config.hidden, start=QUIET) if config.inner_norm else None
        self.down = linear(config.hidden, d_model, residual_std(n_branches), config.bias, ternary=True)

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        x = self.norm(x)
        hidden = step.tap(self, "hidden", F.silu(self.gate(x)) * self.up(x))  # (B, T, F)
        return MixerOutput(self.down(hidden if self.inner_norm is None else self.inner_norm(hidden)))
