"""Hierarchical reasoning, reduced to one latent a token: the trunk's output is refined a few times by the same weights.

    z_0 = w                                     one learned vector, the same for every token
    c_s = RMSNorm_z(z_s) A + RMSNorm(x) B       = [RMSNorm_z(z_s); RMSNorm(x)] [A; B],  split into (g, a, b)
    z_s+1 = z_s + sigmoid(g + 2) * ((silu(a) * b) W_d)
    y = tanh(gamma) (z_S - z_0)                 only what reasoning added, never the vector it began from

Shapes   x, y (B, T, D); z (B, T, D); c (B, T, D + 2 F).
State    none: each token is refined alone, so nothing is cached and causality is exact.
Cost     forward, a token: S (2 D (D + 2 F) + 2 F D) operations, 25 M at D 768, F 1536, S 3: what x says is the same
         in every step and what z_0 says in every token, so each is computed once (the product over the joined vector,
         token by token and step by step, would cost 42 M).
Init     w ~ N(0, 1); A, B ~ N(0, 0.02^2); W_d zero, so the organ starts as a no-op; tanh(gamma) = 0.9; the gate of a
         step starts at sigmoid(2) = 0.88.
Source   Wang et al. 2025, "Hierarchical Reasoning Model", arXiv 2506.21734. Kept: the input injected in every step and
         a start that is not the input. Changed: one level instead of two, position by position, gradient through all
         steps.
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
from positronic.nn import init
from positronic.nn.gate import OPEN, Gate
from positronic.nn.linear import linear
from positronic.nn.norm import RMSNorm
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["HRM", "HRMConfig"]

STEP_GATE_OFFSET = 2.0
"""Added to a step's gate, which so starts open."""


@dataclass(frozen=True, kw_only=True)
class HRMConfig(MixerConfig, kind="hrm"):
    hidden: Annotated[int, AtMost(262_144)] = 1536
    """Width between the way in and the way down."""
    steps: Annotated[int, AtMost(64)] = 3
    """Times the latent is refined; 0 makes the organ the identity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1 or self.steps < 0:
            raise ConfigError(
                f"hrm has hidden {self.hidden} and steps {self.steps}; use a width of 1 or more (2 d_model is usual) "
                f"and 0 steps or more (3 is usual)."
            )

    def build(self, d_model: int, n_branches: int = 1) -> "HRM":
        """The module; it starts silent, however many residual branches the trunk has."""
        return HRM(self, d_model)


class HRM(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "added": Tap("what it adds before its gate, (B, T, D)"),
    }

    def __init__(self, config: HRMConfig, d_model: int):
        super().__init__()
        self.config = config
        self.widths = [d_model, config.hidden, config.hidden]
        self.norm = RMSNorm(d_model)
        self.latent_norm = RMSNorm(d_model)
        self.start = nn.Parameter(torch.empty(d_model))
        self.recall = linear(d_model, sum(self.widths))
        self.inject = linear(d_model, sum(self.widths))
        self.down = linear(config.hidden, d_model, std=0)
        self.gate = Gate(OPEN, leak=0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.start, 1.0)

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        injected = self.inject(self.norm(x))  # (B, T, D + 2 F)
        added = torch.zeros_like(x)  # z - z_0
        latent = self.start[None]  # (1, D), the same for all tokens until the first step
        for _ in range(self.config.steps):
            g, a, b = (self.recall(self.latent_norm(latent)) + injected).split(self.widths, -1)
            # sigmoid by tanh: torch.sigmoid rounds the last values of a tensor by other code, and so the last row
            gate = (1 + torch.tanh((g + STEP_GATE_OFFSET) / 2)) / 2
            added = added + gate * self.down(F.silu(a) * b)
            latent = self.start + added
        return MixerOutput(self.gate(step.tap(self, "added", added)))
