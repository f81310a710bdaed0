"""A mixer that no family has, and a family of it: what a stranger writes who tries an idea."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from positronic.config import MixerConfig
from positronic.lm import MixerOutput
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.language_model import Anatomy, LayeredConfig
from positronic.nn.linear import linear, residual_std
from positronic.nn.norm import RMSNorm
from positronic.state import Step


@dataclass(frozen=True)
class FadingState:
    """What is left of a document's past."""

    mean: Tensor
    """(B, D)"""
    document: Tensor
    """(B,)"""
    trail: tuple[Tensor, Tensor] | None = None
    """(B, T+1, D) and (B, T+1)"""

    def commit(self, path: Sequence[int]) -> "FadingState":
        assert self.trail is not None
        return FadingState(*(kept[:, len(path)] for kept in self.trail))

    def select(self, rows: Tensor) -> "FadingState":
        return FadingState(self.mean[rows], self.document[rows])


class Fading(nn.Module):
    """m_t = m_t-1 / 2 + x_t / 2, anew in each document; y_t = m_t W."""

    def __init__(self, config: "FadingConfig", d_model: int, n_branches: int = 1):
        super().__init__()
        self.config, self.norm = config, RMSNorm(d_model)
        self.out = linear(d_model, d_model, residual_std(n_branches))

    def init_state(self, batch: int, room: int = 0) -> FadingState:
        like = self.norm.weight
        return FadingState(like.new_zeros(batch, len(like)), torch.zeros(batch, dtype=torch.long, device=like.device))

    def forward(self, x: Tensor, step: Step, state: FadingState | None = None) -> MixerOutput:
        before = self.init_state(len(x)) if state is None else state
        n, documents, means = self.norm(x), step.documents(before.document), [before.mean]
        real = torch.ones_like(step.tokens, dtype=torch.bool) if step.valid is None else step.valid
        numbers = torch.cat([before.document[:, None], documents], 1)
        for t in range(x.shape[1]):
            past = means[-1] * (numbers[:, t] == numbers[:, t + 1])[:, None]
            means.append(torch.where(real[:, t, None], past / 2 + n[:, t] / 2, means[-1]))
        mean = torch.stack(means, 1)  # (B, T+1, D)
        after = None
        if state is not None:
            after = FadingState(mean[:, -1], numbers[:, -1], (mean, numbers) if step.keep_trail else None)
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
        return Anatomy((self.fading, self.channel))
