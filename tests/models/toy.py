"""A mixer that no family has, and a family of it: what a stranger writes who tries an idea."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from positronic.config import MixerConfig
from positronic.lm import MixerOutput
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.language_model import Anatomy, LayeredConfig, layered
from positronic.nn.linear import linear, residual_std
from positronic.nn.norm import RMSNorm
from positronic.nn.stack import Passed, Stack
from positronic.state import State, Step


@dataclass(frozen=True)
class FadingState(State):
    """What is left of a document's past."""

    mean: Tensor
    """(B, D)"""
    rollback: tuple[Tensor] | None = None
    """(B, T+1, D)"""


class Fading(nn.Module):
    """m_t = m_t-1 / 2 + x_t / 2, anew in each document; y_t = m_t W."""

    def __init__(self, config: "FadingConfig", d_model: int, n_branches: int = 1):
        super().__init__()
        self.config, self.norm = config, RMSNorm(d_model)
        self.out = linear(d_model, d_model, residual_std(n_branches))

    def init_state(self, batch: int, capacity: int = 0) -> FadingState:
        return FadingState(self.norm.weight.new_zeros(batch, len(self.norm.weight)))

    def forward(self, x: Tensor, step: Step, state: FadingState | None = None) -> MixerOutput:
        before = self.init_state(len(x)) if state is None else state
        n, fresh, means = self.norm(x), step.fresh, [before.mean]
        real = torch.ones_like(step.tokens, dtype=torch.bool) if step.valid is None else step.valid
        for t in range(x.shape[1]):
            past = means[-1].masked_fill(fresh[:, t, None], 0.0)
            means.append(torch.where(real[:, t, None], past / 2 + n[:, t] / 2, means[-1]))
        mean = torch.stack(means, 1)  # (B, T+1, D)
        after = None if state is None else FadingState(mean[:, -1], (mean,) if step.keep_rollback else None)
        return MixerOutput(step.tap(self, "branch", self.out(mean[:, 1:])), after)


@dataclass(frozen=True, kw_only=True)
class FadingConfig(MixerConfig, kind="fading"):
    def build(self, d_model: int, n_branches: int = 1) -> Fading:
        return Fading(self, d_model, n_branches)


@dataclass(frozen=True, kw_only=True)
class ToyConfig(LayeredConfig, kind="toy"):
    n_layers: int = 2
    channel: SwiGLUConfig = SwiGLUConfig(hidden=64)
    fading: FadingConfig = FadingConfig()

    def anatomy(self) -> Anatomy:
        return Anatomy(layered(self.n_layers, self.fading, self.channel))


class Twice:
    """Passes its layers twice, each time with memories of its own, and leaves before the last of them."""

    def init_state(self, trunk: Stack, batch: int, capacity: int = 0) -> list[State | None]:
        return [trunk[i].init_state(batch, capacity) for i in self.way(trunk)]

    def __call__(self, trunk: Stack, x: Tensor, step: Step, states: Sequence[State | None] | None = None) -> Passed:
        return trunk.through(self.way(trunk), x, step, states)

    @staticmethod
    def way(trunk: Stack) -> list[int]:
        layers = list(trunk.sections["layers"])
        return [*layers, *layers[:-1]]


@dataclass(frozen=True, kw_only=True)
class LoopingConfig(ToyConfig, kind="looping_toy"):
    def anatomy(self) -> Anatomy:
        return replace(super().anatomy(), walk=Twice)
