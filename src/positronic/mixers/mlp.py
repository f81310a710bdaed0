"""MLP: the channel mixer of GPT-2, two matrices and a GELU between them.

    y = gelu(x W_up + b_up) W_down + b_down        x normed first; the vectors b only if asked for
    gelu(z) = z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3)))

Shapes   x, y (B, T, D); hidden (B, T, F).
State    none: each token is mixed alone.
Cost     4 D F operations a token, forward.
Init     N(0, 0.02^2), vectors 0; W_down N(0, (0.02 / sqrt(residual branches))^2).
Source   Radford et al. 2019, GPT-2; the tanh form of Hendrycks and Gimpel 2016, arXiv 1606.08415.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from positronic.lm import MixerOutput
from positronic.mixers.feed_forward import FeedForwardConfig
from positronic.nn.linear import linear, residual_std
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["MLP", "MLPConfig"]


@dataclass(frozen=True, kw_only=True)
class MLPConfig(FeedForwardConfig, kind="mlp"):
    usual: ClassVar[str] = "4 times d_model"

    def build(self, d_model: int, n_branches: int = 1) -> "MLP":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return MLP(self, d_model, n_branches)


class MLP(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "hidden": Tap("units, (B, T, F)"),
    }

    def __init__(self, config: MLPConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        self.norm = config.norm.build(d_model)
        self.up = linear(d_model, config.hidden, bias=config.bias)
        self.down = linear(config.hidden, d_model, residual_std(n_branches), config.bias)

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        hidden = step.tap(self, "hidden", F.gelu(self.up(self.norm(x)), approximate="tanh"))  # (B, T, F)
        return MixerOutput(self.down(hidden))
