"""A colony of hyphal tips: a channel mixer that lets tips grow through a ball, and reads out where they came to rest.

    n      = RMSNorm(x)
    p      = n W_p + gate(sin(seed of the token) / 4)        g = n W_g              N tips with three coordinates each
    p, ghat, rho = grown `steps` times, away from where the colony is dense (kernels.colony)
    y      = soft_clamp(gate([p; ghat; rho] W_r + stations), 10)

Tips sense each other through F learned centres c of width s = 0.1 + softplus(raw); they keep the share lam =
sigmoid(raw) of their growth from step to step, turn by trop times the density's gradient (no constraint on its sign)
and move at most at v = softplus(raw). Stations read the last positions and do not steer.

Shapes   x, y (B, T, D); p, ghat (B, T, N, 3), rho (B, T, N), float32 whatever x is; z (B, T, 7 N), tip by tip: 3 of p,
         3 of ghat, 1 of rho.
State    that of the stations; without them none: each token has a colony of its own.
Cost     2 D 13 N operations a token in products; growth about 40 N F a step and a sensing more.
Init     W_p N(0, 0.012^2): positions of 0.33, a sixth of them beyond the knee at 0.75; W_g N(0, 0.02^2); centres spread
         evenly over [-0.6, 0.6]^3, 0.5 wide; trop -0.5, lam 0.8, v 0.5; output gate open, seed's gate closed.
Source   Meskauskas, Fricker and Moore 2004 (see kernels.colony); the readout and the centres are ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig, OrganConfig, shared_by
from positronic.errors import ConfigError
from positronic.kernels.colony import ColonyField, grow
from positronic.kernels.soft_clamp import soft_clamp
from positronic.lm import MixerOutput
from positronic.nn import init
from positronic.nn.gate import OPEN, Gate
from positronic.nn.halton import halton
from positronic.nn.linear import linear, residual_std
from positronic.nn.norm import RMSNorm
from positronic.nn.parts import prepared_by
from positronic.probe import Tap
from positronic.state import State, Step

__all__ = ["Colony", "ColonyConfig"]

POSITION_STD, GROWTH_STD = 0.012, 0.02
SEED_SIZE = 0.25
NARROWEST = 0.1
"""A centre's width can come near this and never reach it."""
CENTRES_WITHIN, WIDTH, TROPISM, PERSISTENCE, SPEED = 0.6, 0.5, -0.5, 0.8, 0.5
OUTPUT_BOUND = 10.0


@dataclass(frozen=True, kw_only=True)
class ColonyConfig(MixerConfig, kind="colony"):
    tips: Annotated[int, AtMost(4096)] = 96
    """Tips a token grows."""
    centres: Annotated[int, AtMost(1024)] = 16
    """Points through which tips sense each other."""
    steps: Annotated[int, AtMost(64)] = 3
    """Growth steps a token."""
    dt: float = 0.25
    """Time of one step: a tip moves at most dt times its speed."""
    phase_seed: OrganConfig | None = None
    """Where offsets of token ids come from. None: tips start from the stream alone."""
    stations: OrganConfig | None = None
    """What reads the grown tips. None: nothing but the readout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.tips, self.centres, self.steps) < 1 or not self.dt > 0:
            raise ConfigError(
                f"colony has {self.tips} tips, {self.centres} centres, {self.steps} steps and dt {self.dt}, with which "
                f"nothing grows. Use 1 or more of each (96, 16 and 3 are usual) and a positive dt (0.25)."
            )

    @property
    def axes(self) -> tuple[int, ...]:
        """The bank's groups, as organs get them: three coordinates of every tip."""
        return (3,) * self.tips

    def build(self, d_model: int, n_branches: int = 1) -> "Colony":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return Colony(self, d_model, n_branches)

    def fitted(self, vocab_size: int) -> "ColonyConfig":
        """The same with a seed for this vocabulary."""
        seed = self.phase_seed
        return self if seed is None else self.replace(phase_seed=seed.fitted(vocab_size, self.axes))

    def without_organs(self) -> Self:
        return self.replace(phase_seed=None, stations=None)

    def shared_parts(self, vocab_size: int) -> dict[str, Any]:
        """What all layers' organs read."""
        return shared_by((self.phase_seed, self.stations), vocab_size, self.axes)


class Colony(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "phase_seed": Tap("offsets of token ids", torch.zeros_like, "fractal_phase"),
        "first_positions": Tap("where tips start, (B, T, N, 3)"),
        "first_growth": Tap("how they set out, (B, T, N, 3)"),
        "positions": Tap("where they come to rest, (B, T, N, 3)"),
        "growth": Tap("how they move there, (B, T, N, 3)"),
        "density": Tap("how dense the colony is there, (B, T, N)"),
    }

    def __init__(self, config: ColonyConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        self.norm = RMSNorm(d_model)
        self.tips = linear(d_model, 6 * config.tips, (POSITION_STD, GROWTH_STD))
        self.centres = nn.Parameter(torch.empty(config.centres, 3))
        self.width = nn.Parameter(torch.empty(config.centres))
        self.tropism = nn.Parameter(torch.empty(()))
        self.persistence = nn.Parameter(torch.empty(()))
        self.speed = nn.Parameter(torch.empty(()))
        self.seed_gate = None if config.phase_seed is None else Gate(leak=0)
        self.stations = None if config.stations is None else config.stations.build(d_model, config.axes)
        self.readout = linear(7 * config.tips, d_model, residual_std(n_branches))
        self.gate = Gate(OPEN, leak=0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        points = halton(np.arange(1, self.config.centres + 1))
        init.copy_(self.centres, torch.from_numpy(CENTRES_WITHIN * (2 * points - 1)))
        init.constant_(self.width, math.log(math.expm1(WIDTH - NARROWEST)))
        init.constant_(self.tropism, TROPISM)
        init.constant_(self.persistence, math.log(PERSISTENCE / (1 - PERSISTENCE)))
        init.constant_(self.speed, math.log(math.expm1(SPEED)))

    def init_state(self, batch: int, capacity: int = 0) -> State | None:
        return None if self.stations is None else self.stations.init_state(batch, capacity)

    def prepare(self, step: Step) -> dict[str, Any]:
        """What its stations want computed once a call."""
        return prepared_by((self.stations,), step)

    def field(self) -> ColonyField:
        """What the parameters stand for, float32."""
        return ColonyField(
            self.centres.float(),
            NARROWEST + F.softplus(self.width.float()),
            self.tropism.float(),
            torch.sigmoid(self.persistence.float()),
            F.softplus(self.speed.float()),
        )

    def forward(self, x: Tensor, step: Step, state: State | None = None) -> MixerOutput:
        n, c = self.norm(x), self.config
        p, g = self.tips(n).float().unflatten(-1, (2, c.tips, 3)).unbind(-3)  # (B, T, N, 3) each
        if c.phase_seed is not None and self.seed_gate is not None:
            seed = self.seed_gate(SEED_SIZE * torch.sin(step.shared[c.phase_seed.kind]))
            p = p + step.tap(self, "phase_seed", seed).unflatten(-1, (c.tips, 3))
        p, g = step.tap(self, "first_positions", p), step.tap(self, "first_growth", g)
        p, velocity, density = grow(p, g, self.field(), c.steps, c.dt)
        p, velocity = step.tap(self, "positions", p), step.tap(self, "growth", velocity)
        density = step.tap(self, "density", density)
        z = torch.cat([p, velocity, density[..., None]], -1).flatten(-2)  # (B, T, 7 N)
        y, after = self.readout(z.to(n.dtype)), None
        if self.stations is not None:
            said, after, _ = self.stations(n, p, step, state)
            y = y + said.to(y.dtype)
        return MixerOutput(soft_clamp(self.gate(y), OUTPUT_BOUND), after)
