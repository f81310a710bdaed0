"""Phase attention: an organ between two rings that recalls the values of tokens whose phases stood alike.

Slot s joins rings s and s + 1, m oscillators, and reads their phases theta before any integration:

    f_t = [cos theta_t; sin theta_t] / sqrt(m)         f_t . f_s = mean over oscillators of cos(theta_t - theta_s)
    q, k, v = f W_q, f W_k, f W_v                      q, k then scaled to length 1
    o_t = sum_s p_ts v_s                               p_t = softmax over s <= t of tau q_t . k_s, inside one document
    current = gate(o W_o)                              onto the m oscillators, held while they are integrated

One head a slot, the token itself included, no positions: a phase is the only clock. `x` is not read.

Shapes   phases, currents (B, T, N); f (B, T, 2 m); q, k, v (B, slots, T, dim): all slots are the heads of one call.
State    keys (scaled) and values, 2 dim numbers a slot and token: a growing buffer and a length.
Cost     8 m dim operations a token and slot, 4 dim for each token and slot it sees.
Weights  W_q, W_k and W_v are rows of one matrix a slot; tau = softplus(sharpness), one a slot.
Init     N(0, 0.02^2), tau 8, gates closed: the current is exactly zero when new.
Source   ours; the features of phases are fed to plain softmax attention.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, OrganConfig
from positronic.errors import ConfigError
from positronic.kernels.attention import causal_attention, masked_attention
from positronic.lm import MixerOutput
from positronic.nn import init
from positronic.nn.documents import documents_of
from positronic.nn.gate import Gate
from positronic.nn.kv import KVState, prepare_seen
from positronic.nn.linear import linear
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["PhaseAttention", "PhaseAttentionConfig", "phase_features"]

EPSILON = 1e-6
"""Shortest query or key that is scaled to length 1."""
NARROWEST = 16
"""The block-sparse kernel takes no narrower head, and shorter products do not keep a row's bits."""


@dataclass(frozen=True, kw_only=True)
class PhaseAttentionConfig(OrganConfig, kind="phase_attention"):
    slots: Annotated[tuple[int, ...], AtMost(64)] = (1, 3, 5)
    """Places between rings: slot s joins rings s and s + 1, counted from the innermost, 0."""
    dim: Annotated[int, AtMost(4096)] = 32
    """Width of a slot's queries, keys and values."""
    tau: float = 8.0
    """Start of the sharpness: scores lie in [-tau, tau]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.slots or len(set(self.slots)) != len(self.slots) or min(self.slots) < 0:
            raise ConfigError(
                f"phase_attention.slots is {self.slots}; name each slot once, counted from 0, and at least one."
            )
        if self.dim < NARROWEST:
            raise ConfigError(f"phase_attention.dim is {self.dim}; use {NARROWEST} or more (32 is usual).")
        if not 0 < self.tau < math.inf:
            raise ConfigError(f"phase_attention.tau is {self.tau}; use a finite sharpness above 0 (8 is usual).")

    def build(self, d_model: int, rings: tuple[int, ...]) -> "PhaseAttention":
        """The organ for rings of these sizes; d_model sets nothing, for only phases are read."""
        if max(self.slots) > len(rings) - 2:
            raise ConfigError(
                f"phase_attention.slots is {self.slots}, but {len(rings)} rings have {max(len(rings) - 1, 0)} places "
                f"between them; use slots below that, or add rings."
            )
        return PhaseAttention(self, rings)


def phase_features(phases: Tensor) -> Tensor:
    """Phases (..., m), radians -> (..., 2 m) of length 1, whose products are mean cosines of phase differences."""
    phases = phases.float()
    return torch.cat([phases.cos(), phases.sin()], -1) / phases.shape[-1] ** 0.5


class PhaseAttention(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "heads": Tap("what each slot has read, (B, slots, T, K)"),
        "current": Tap("current on the bank, (B, T, N)", torch.zeros_like),
    }

    def __init__(self, config: PhaseAttentionConfig, rings: tuple[int, ...]):
        super().__init__()
        self.config = config
        ends = list(accumulate(rings, initial=0))
        self.spans = [(ends[slot], ends[slot + 2]) for slot in config.slots]
        """First oscillator and end of what each slot joins."""
        sizes = [end - first for first, end in self.spans]
        self.qkv = nn.ModuleList(linear(2 * m, 3 * config.dim) for m in sizes)
        self.out = nn.ModuleList(linear(config.dim, m) for m in sizes)
        self.gates = nn.ModuleList(Gate() for _ in sizes)
        self.sharpness = nn.Parameter(torch.empty(len(sizes)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        tau = self.config.tau
        init.constant_(self.sharpness, tau + math.log(-math.expm1(-tau)))  # softplus^-1

    def init_state(self, batch: int, capacity: int = 0) -> KVState:
        return KVState.new(self.sharpness, batch, len(self.spans), self.config.dim, capacity)

    def prepare(self, step: Step) -> dict[str, Any]:
        """Who sees whom in a call that goes on from a state."""
        return prepare_seen(step)

    def forward(self, x: Tensor, phases: Tensor, step: Step, state: KVState | None = None) -> MixerOutput:
        q, k, v = self._heads(phases)
        if state is None:
            o, after = causal_attention(q, k, v, documents_of(step), scale=1.0), None
        else:
            keys, values, allowed, after = state.extend(k, v, step)
            o = masked_attention(q, keys, values, allowed, scale=1.0)
        o = step.tap(self, "heads", o)
        return MixerOutput(step.tap(self, "current", self._current(o, phases.shape[-1])), after)

    def _heads(self, phases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, N) -> queries, keys, values (B, slots, T, dim); tau is in the queries."""
        projected = [
            qkv(phase_features(phases[..., first:end]).to(self.sharpness.dtype))
            for (first, end), qkv in zip(self.spans, self.qkv, strict=True)
        ]
        both, v = torch.stack(projected, 1).split([2 * self.config.dim, self.config.dim], -1)
        q, k = F.normalize(both.float().unflatten(-1, (2, -1)), dim=-1, eps=EPSILON).unbind(-2)
        tau = F.softplus(self.sharpness.float())[:, None, None]
        return (q * tau).to(v.dtype), k.to(v.dtype), v

    def _current(self, o: Tensor, n: int) -> Tensor:
        """(B, slots, T, dim) -> (B, T, N): each slot's gated current on its own rings, zero on the others."""
        currents = [
            F.pad(gate(out(o[:, i])), (first, n - end))
            for i, ((first, end), out, gate) in enumerate(zip(self.spans, self.out, self.gates, strict=True))
        ]
        return reduce(torch.add, currents)
