"""A mixture of architectures: every head reads every token, and a router says how much of each is heard.

    n    = RMSNorm(x)
    pi   = softmax(silu(n W_1) W_2 / temperature + b)        one weight a head and token
    y    = gain sum_m pi_m fg_m (*) y_m(n)                   fg_m = 2 sigmoid(raw) in (0, 2), one a group of channels

Soft: all heads run at every token and keep their state, and gradient reaches each from the first step. With `top` only
the largest weights count, brought to sum 1 (ties: the first head), and the heads still all run.

Shapes   x, n, y (B, T, D); pi (B, T, M), float32.
State    that of the heads, in order.
Cost     2 D hidden operations a token beside the heads' own.
Losses   those of the heads; with a floor mixture.entropy, the mean of relu(floor - H(pi) / ln M) over a row's real
         tokens, of pi as it is before `top`.
Init     W_1 N(0, 0.02^2); W_2, b and raw 0: equal weights 1 / M, feature gates exactly 1.
Source   a soft relative of Shazeer et al. 2017, arXiv 1701.06538, whose experts are of different kinds here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.lm import MixerOutput
from positronic.mixers.channel_mix import ChannelMixConfig
from positronic.mixers.local_conv import LocalConvConfig
from positronic.mixers.metric_attention import MetricMHAConfig, MetricMQAConfig
from positronic.mixers.moe import largest
from positronic.nn import init
from positronic.nn.linear import Router, linear
from positronic.nn.norm import RMSNorm
from positronic.nn.parts import PartsState, prepared_by
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["Mixture", "MixtureConfig"]


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(MixerConfig, kind="mixture"):
    heads: tuple[MixerConfig, ...] = (LocalConvConfig(), MetricMHAConfig(), ChannelMixConfig(), MetricMQAConfig())
    """What is mixed: mixers that read a normed stream."""
    hidden: Annotated[int, AtMost(65_536)] = 128
    """Width inside the router."""
    temperature: float = 2.0
    """What the router's logits are divided by; more makes it softer."""
    biased: bool = True
    """Whether every head has a learned offset before the softmax."""
    groups: Annotated[int, AtMost(65_536)] = 12
    """Groups of channels with a feature gate each, in each head."""
    top: Annotated[int | None, AtMost(64)] = None
    """Heads heard at a token. None: all."""
    gain: float = 1.0
    """Factor of the sum; 4/3 makes up for a uniform router in deep trunks."""
    entropy_floor: float | None = None
    """Evenness of the weights, from 0 to 1, below which there is a loss (0.7 is usual). None: no such loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.heads) < 2 or min(self.hidden, self.groups) < 1:
            raise ConfigError(
                f"mixture has {len(self.heads)} heads, a router of width {self.hidden} and {self.groups} groups; use 2 "
                f"heads or more, and 1 or more of the others (128 and 12 are usual)."
            )
        if self.top is not None and not 2 <= self.top <= len(self.heads):
            raise ConfigError(
                f"mixture.top is {self.top} of {len(self.heads)} heads; use 2 up to all of them, or none: the weight "
                f"of a single head would be 1 whatever the router says."
            )
        if not self.temperature > 0 or not self.gain > 0:
            raise ConfigError(
                f"mixture has temperature {self.temperature} and gain {self.gain}; use both above 0 (2 and 1, say)."
            )
        if self.entropy_floor is not None and not 0 < self.entropy_floor <= 1:
            raise ConfigError(f"mixture.entropy_floor is {self.entropy_floor}; use a share above 0 up to 1, or none.")

    def build(self, d_model: int, n_branches: int = 1) -> "Mixture":
        """The module; n_branches residual branches in the trunk set the scale of its heads' outputs at the start."""
        if d_model % self.groups:
            raise ConfigError(
                f"mixture.groups is {self.groups}, which does not divide d_model {d_model}; use one that does."
            )
        return Mixture(self, d_model, n_branches)


class Mixture(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "weights": Tap("shares of the heads, (B, T, M)"),
    }

    def __init__(self, config: MixtureConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        n_heads = len(config.heads)
        self.norm = RMSNorm(d_model)
        self.heads = nn.ModuleList(head.build(d_model, n_branches) for head in config.heads)
        self.router = linear(d_model, config.hidden)
        self.choose = Router(config.hidden, n_heads, std=0)
        self.bias = nn.Parameter(torch.empty(n_heads)) if config.biased else None
        self.gates = nn.Parameter(torch.empty(n_heads, config.groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.zeros_(self.gates)
        if self.bias is not None:
            init.zeros_(self.bias)

    def prepare(self, step: Step) -> dict[str, Any]:
        """What its heads want computed once a call."""
        return prepared_by(self.heads, step)

    def init_state(self, batch: int, capacity: int = 0) -> PartsState:
        return PartsState(tuple(head.init_state(batch, capacity) for head in self.heads))  # type: ignore[operator]

    def forward(self, x: Tensor, step: Step, state: PartsState | None = None) -> MixerOutput:
        n = self.norm(x)
        logits = self._logits(n)
        aux = {} if self.config.entropy_floor is None else {"mixture.entropy": self._flatness(logits, step)}
        weights = step.tap(self, "weights", self._heard(logits.softmax(-1)))  # (B, T, M)
        scale = self.config.gain * 2 * torch.sigmoid(self.gates.float())
        scale = scale.repeat_interleave(x.shape[-1] // self.config.groups, 1)  # (M, D)
        y, after = torch.zeros((), dtype=x.dtype, device=x.device), []
        for m, (head, heard) in enumerate(zip(self.heads, (weights[..., None] * scale).unbind(-2), strict=True)):
            said, memory, losses = head(n, step, None if state is None else state.parts[m])
            y = torch.addcmul(y.to(said.dtype), heard.to(said.dtype), step.tap(head, "current", said))  # (B, T, D)
            after.append(memory)
            for name, loss in losses.items():
                aux[name] = aux[name] + loss if name in aux else loss
        return MixerOutput(y, None if state is None else PartsState(tuple(after)), aux)

    def _logits(self, n: Tensor) -> Tensor:
        """Of pi (B, T, M), float32."""
        logits = self.choose(F.silu(self.router(n))) / self.config.temperature
        return logits if self.bias is None else logits + self.bias.float()

    def _heard(self, shares: Tensor) -> Tensor:
        if self.config.top is None:
            return shares
        shares = shares * largest(shares, self.config.top)
        return shares / shares.sum(-1, keepdim=True)

    def _flatness(self, logits: Tensor, step: Step) -> Tensor:
        assert self.config.entropy_floor is not None, "asked for where there is a floor"
        log_pi = logits.log_softmax(-1)  # the derivative of entr(pi) is infinite where a share has underflowed
        evenness = -(log_pi.exp() * log_pi).sum(-1) / math.log(len(self.heads))  # (B, T)
        short = torch.relu(self.config.entropy_floor - evenness)
        real = torch.ones_like(short) if step.valid is None else step.valid.to(short.dtype)
        return (short * real).sum(1) / real.sum(1).clamp(min=1)  # (B,)
