"""Ring memory specialists: on every ring a few stores, written by content, two of them read a token.

    q, v_in, v_out = x W_q, tanh(x W_in), tanh(x W_out)                    for every ring; x normed by the mixer
    a_e = (q . key_e + q . S_in,e) / sqrt(V)        pi = softmax over the `top` largest a, equal ones by lowest index
    u_r = sum_e pi_e gate_e(S_out,e Dec_e)                                 read, then
    w_e = write_max sigmoid(x W_write)_e softmax_e(q . key_e / sqrt(V))
    S_in,e += w_e (v_in - S_in,e)      S_out,e += w_e (v_out - S_out,e)    write

What is written depends on the input alone, never on the stores, so that all tokens of a row can be trained at once.
A new store is zero: the first token reads nothing. |S| < 1 always, since every write is a convex mixture.

Shapes   x (B, T, D); current (B, T, N); R rings of E specialists of width V; decoders (N, E V), ring by ring.
State    S_in and S_out, 2 R E V float32 a row at any context length, and the document they belong to.
Cost     2 D (3 R V + R E) + 2 E V N operations a token, and the stores' (see `kernels.store`).
Memory   training keeps the projections, 3 R V + R E numbers a token; all else is computed again on the way back.
Weights  W_q, W_in, W_out and W_write of all rings are rows of one matrix `project`, in this order, ring by ring.
Init     N(0, 0.02^2); keys N(0, 1); one leaky gate a ring and specialist, closed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from positronic.config import AtMost, OrganConfig
from positronic.errors import ConfigError
from positronic.kernels.store import Recall, recall
from positronic.lm import MixerOutput
from positronic.nn import init
from positronic.nn.gate import Gate, GatedLinear
from positronic.nn.linear import linear
from positronic.nn.memory_slots import SlotsState
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["Specialists", "SpecialistsConfig"]


@dataclass(frozen=True, kw_only=True)
class SpecialistsConfig(OrganConfig, kind="specialists"):
    per_ring: Annotated[int, AtMost(1024)] = 7
    """Specialists on each ring."""
    dim: Annotated[int, AtMost(4096)] = 32
    """Width of a key and of a store."""
    top: Annotated[int, AtMost(1024)] = 2
    """Specialists read for a token and ring."""
    write_max: float = 0.5
    """Most of a store that one token may replace."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_ring < 1 or self.dim < 1:
            raise ConfigError(
                f"specialists.per_ring is {self.per_ring} and dim {self.dim}; use 1 or more (7 and 32 are usual)."
            )
        if not 1 <= self.top <= self.per_ring:
            raise ConfigError(
                f"specialists.top is {self.top}; read from 1 to all {self.per_ring} specialists of a ring."
            )
        if not 0 < self.write_max < 1:
            raise ConfigError(
                f"specialists.write_max is {self.write_max}; use a share above 0 and below 1, so that a store neither "
                f"stays empty nor forgets all at once (0.5 is usual)."
            )

    def build(self, d_model: int, rings: tuple[int, ...]) -> "Specialists":
        return Specialists(self, d_model, rings)


class Specialists(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "current": Tap("current on the bank, (B, T, N)", torch.zeros_like),
        "choice": Tap("how much of each entry is read, (B, T, R, E)"),
        "memory": Tap("stores after the call, (B, 2, R, E, V)"),
    }

    def __init__(self, config: SpecialistsConfig, d_model: int, rings: tuple[int, ...]):
        super().__init__()
        self.config, self.rings = config, rings
        c, n_rings = config, len(rings)
        self.widths = [3 * n_rings * c.dim, n_rings * c.per_ring]
        self.project = linear(d_model, sum(self.widths))
        self.keys = nn.Parameter(torch.empty(n_rings, c.per_ring, c.dim))
        self.decoders = GatedLinear(c.per_ring * c.dim, rings)
        self.gates = nn.ModuleList(Gate(shape=(c.per_ring, 1)) for _ in rings)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.keys, 1.0)

    def init_state(self, batch: int, capacity: int = 0) -> SlotsState:
        return SlotsState.new(batch, self.keys)

    def prepare(self, step: Step) -> dict[str, Any]:
        """Which tokens begin a document."""
        return step.prepare_fresh()

    def forward(self, x: Tensor, phases: Tensor, step: Step, state: SlotsState | None = None) -> MixerOutput:
        before = self.init_state(len(x)) if state is None else state
        projected = self.project(x)
        if state is None and torch.is_grad_enabled():
            current, recalled = checkpoint(
                self._consult, projected, step.fresh, before.stores, step, use_reentrant=False, preserve_rng_state=False
            )
        else:
            current, recalled = self._consult(projected, step.fresh, before.stores, step)
        current = step.tap(self, "current", current)
        step.tap(self, "choice", recalled.choice)
        step.tap(self, "memory", recalled.stores)
        return MixerOutput(current, None if state is None else SlotsState.after(recalled, step))

    def _consult(self, projected: Tensor, fresh: Tensor, stores: Tensor, step: Step) -> tuple[Tensor, Recall]:
        """The gated current (B, T, N) and what it was made of."""
        c = self.config
        vectors, write = projected.float().split(self.widths, dim=-1)
        q, v = vectors.unflatten(-1, (3, len(self.rings), c.dim)).split([1, 2], dim=2)  # (B, T, 1 and 2, R, V)
        q, v, write = q.squeeze(2), v.tanh(), write.unflatten(-1, (len(self.rings), c.per_ring))
        # A product and a sum: a matrix product this short gives bits that change with a row's place in memory.
        address = (q[..., None, :] * self.keys.float()).sum(-1)  # (B, T, R, E)
        w = c.write_max * write.sigmoid() * (address / c.dim**0.5).softmax(-1)
        w = step.where_real(w, padding=0.0) if step.write_memory else torch.zeros_like(w)
        recalled = recall(q, address, w, v, stores, fresh, c.top, step.keep_rollback)
        return self.decoders(recalled.read, list(self.gates)), recalled
