"""Stations: places among the tips of a colony, each with a few stores that tips nearby read and write.

    eng_s = 1/N sum_i exp(-|p_i - A_s|^2 / 2 reach^2)                      engagement in (0, 1), by where the tips grew
    q, v_in, v_out, write = x W_q, tanh(x W_in), tanh(x W_out), x W_write  x normed by the mixer; shared by all stations
    alpha_se = softmax over all e of (q . key_se + q . S_in,se) / sqrt(V)
    y   = sum_s gate_s(eng_s Dec_s sum_e alpha_se S_out,se)                read, then
    w_se = write_max sigmoid(write_s) eng_s softmax_e(q . key_se / sqrt(V))
    S_in,se += w_se (v_in - S_in,se)      S_out,se += w_se (v_out - S_out,se)                            write

The tips are what the token's own growth made of it, so what is written depends on the input alone, never on the stores,
and all tokens of a row can be trained at once. A station far from all tips neither says nor hears anything. |S| < 1.

Shapes   x, y (B, T, D); positions (B, T, N, 3); P stations of E specialists of width V; anchors A (P, 3).
State    S_in and S_out, 2 P E V float32 a row at any context length, and the document they belong to.
Cost     2 D (3 V + P) + 2 D P V operations a token, about 10 N P for engagement, and the stores' (see `kernels.store`).
Memory   training keeps the projections, the positions and engagement; all else is computed again on the way back.
Weights  W_q, W_in, W_out and W_write are rows of one matrix `project`, in this order; Dec_s the columns of `decoders`.
Init     N(0, 0.02^2); keys N(0, 1); reach 0.35; one leaky gate a station, closed. Anchors are Halton's points from the
         18th on that lie in the ball of radius 0.8, of the cube around it; they are neither trained nor saved.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from positronic.config import AtMost, OrganConfig
from positronic.errors import ConfigError
from positronic.kernels.colony import nearness
from positronic.kernels.store import Recall, recall
from positronic.lm import MixerOutput
from positronic.nn import init
from positronic.nn.gate import Gate, GatedLinear
from positronic.nn.halton import halton
from positronic.nn.linear import linear
from positronic.nn.memory_slots import SlotsState
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["Stations", "StationsConfig", "anchors"]

ANCHORS_WITHIN, ANCHORS_FROM = 0.8, 18
"""Radius of the ball, and index of the first point that may lie in it: 17 are the centres' and one to spare."""
REACH = 0.35


@dataclass(frozen=True, kw_only=True)
class StationsConfig(OrganConfig, kind="stations"):
    stations: Annotated[int, AtMost(4096)] = 16
    """Places at which stores are kept."""
    per_station: Annotated[int, AtMost(1024)] = 7
    """Specialists at each of them, all of which are read."""
    dim: Annotated[int, AtMost(4096)] = 32
    """Width of a key and of a store."""
    write_max: float = 0.5
    """Most of a store that one token may replace, where all its tips meet at the anchor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.stations, self.per_station, self.dim) < 1:
            raise ConfigError(
                f"stations.stations is {self.stations}, per_station {self.per_station} and dim {self.dim}; use 1 or "
                f"more of each (16, 7 and 32 are usual)."
            )
        if not 0 < self.write_max < 1:
            raise ConfigError(
                f"stations.write_max is {self.write_max}; use a share above 0 and below 1, so that a store neither "
                f"stays empty nor forgets all at once (0.5 is usual)."
            )

    def build(self, d_model: int, rings: tuple[int, ...]) -> "Stations":
        """One layer's part; it takes tips in any number."""
        return Stations(self, d_model)


def anchors(n: int) -> Tensor:
    """(n, 3) float64: where the stations stand."""
    points = ANCHORS_WITHIN * (2 * halton(np.arange(ANCHORS_FROM, ANCHORS_FROM + 4 * n + 16)) - 1)
    inside = points[np.square(points).sum(-1) <= ANCHORS_WITHIN**2]
    assert len(inside) >= n, "half the cube's points lie in its ball"
    return torch.from_numpy(inside[:n])


class Stations(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "engagement": Tap("how near the tips came, (B, T, P)"),
        "current": Tap("what they add to the colony, (B, T, D)", torch.zeros_like),
        "choice": Tap("how much of each entry is read, (B, T, P, E)"),
        "memory": Tap("stores after the call, (B, 2, P, E, V)"),
    }

    anchor_bits: Tensor
    """(P, 3) int32: a cast of the model rounds no whole numbers."""

    def __init__(self, config: StationsConfig, d_model: int):
        super().__init__()
        self.config, c = config, config
        self.widths = [3 * c.dim, c.stations]
        self.project = linear(d_model, sum(self.widths))
        self.keys = nn.Parameter(torch.empty(c.stations, c.per_station, c.dim))
        self.decoders = GatedLinear(c.stations * c.dim, [d_model])
        self.reach = nn.Parameter(torch.empty(()))
        self.gate = Gate(shape=(c.stations, 1))
        self.register_buffer("anchor_bits", torch.empty(c.stations, 3, dtype=torch.int32), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.keys, 1.0)
        init.constant_(self.reach, math.log(REACH))
        init.copy_(self.anchor_bits, anchors(self.config.stations).float().view(torch.int32))

    @property
    def anchors(self) -> Tensor:
        """(P, 3) float32: where the stations stand."""
        return self.anchor_bits.view(torch.float32)

    def init_state(self, batch: int, capacity: int = 0) -> SlotsState:
        return SlotsState.new(batch, self.keys)

    def prepare(self, step: Step) -> dict[str, Any]:
        """Which tokens begin a document."""
        return step.prepare_fresh()

    def forward(self, x: Tensor, positions: Tensor, step: Step, state: SlotsState | None = None) -> MixerOutput:
        before = self.init_state(len(x)) if state is None else state
        projected = self.project(x)
        if state is None and torch.is_grad_enabled():
            again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
            engagement = step.tap(self, "engagement", again(self._engaged, positions))
            y, recalled = again(self._consult, projected, engagement, step.fresh, before.stores, step)
        else:
            engagement = step.tap(self, "engagement", self._engaged(positions))
            y, recalled = self._consult(projected, engagement, step.fresh, before.stores, step)
        y = step.tap(self, "current", y)
        step.tap(self, "choice", recalled.choice)
        step.tap(self, "memory", recalled.stores)
        return MixerOutput(y, None if state is None else SlotsState.after(recalled, step))

    def _engaged(self, positions: Tensor) -> Tensor:
        """eng (B, T, P), float32."""
        return nearness(positions.float().mT.contiguous(), self.anchors, self.reach.float().exp()).mean(-1)

    def _consult(
        self, projected: Tensor, engagement: Tensor, fresh: Tensor, stores: Tensor, step: Step
    ) -> tuple[Tensor, Recall]:
        """What the stations say (B, T, D), and what they recalled."""
        c = self.config
        vectors, write = projected.float().split(self.widths, dim=-1)
        q, v = vectors.unflatten(-1, (3, 1, c.dim)).split([1, 2], dim=2)  # (B, T, 1 and 2, 1, V)
        q, v = q.squeeze(2), v.tanh()
        # A product and a sum: a matrix product this short gives bits that change with a row's place in memory.
        address = (q[..., None, :] * self.keys.float()).sum(-1)  # (B, T, P, E)
        share = (address / c.dim**0.5).softmax(-1)
        w = c.write_max * (write.sigmoid() * engagement)[..., None] * share
        w = step.where_real(w, padding=0.0) if step.write_memory else torch.zeros_like(w)
        recalled = recall(q, address, w, v, stores, fresh, c.per_station, step.keep_rollback)
        said = engagement[..., None] * recalled.read.sum(-2)  # (B, T, P, V)
        return self.decoders(said[:, :, None], [self.gate]), recalled
