"""BlackHoleRoPE: rotations whose frequencies bend a little, and values whose energy is gated within bounds.

    kappa_c = 0.5 tanh(sum_b A_b cos(2 pi b x_c) + S_b sin(2 pi b x_c))           x_c = (c + 1/2) / pairs, b = 1 .. 8
    w_c     = base^(-c / pairs) exp(kappa_c)                                       pair c turns by angle p w_c
    e_t     = e_min + (e_max - e_min) sigmoid(logit_0 + s_t)                       e = 1 at s = 0
    s_t     = eta + sum_b A_b cos(2 pi t / P_b) + S_b sin(2 pi t / P_b) + lam D_t    P_b = 8, 16, .. 1024 tokens
    D_t     = |n_t - n_t-1| / (|n_t| + |n_t-1| + 1e-6)                             in [0, 1], 0 where a document begins

Angles stay linear in the position p, so rotations form a group and scores depend on differences of positions alone.
The energy counts t from the beginning of the document.

Shapes   n (B, T, D); positions (B, T); cos, sin (B, G, T, pairs), e (B, T, G) for G heads of keys, float32.
State    n_t-1: D numbers a row.
Cost     2 G pairs sines and 32 G operations a token.
Init     every coefficient 0: standard RoPE and e = 1 to the bit, as e is formed as 1 + (gate - gate at s = 0).
Source   rotations: Su et al. 2021, arXiv 2104.09864. Bending, energy and discrepancy are of the model's published
         description; the basis over channels, not over positions, is our choice and keeps scores relative.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn

from positronic.config import AtMost, Config
from positronic.errors import ConfigError
from positronic.nn import init
from positronic.nn.causal_window import WindowState, look_back
from positronic.nn.rope import signed
from positronic.state import Step

__all__ = ["BlackHoleRoPE", "BlackHoleRoPEConfig"]

MOST_BEND = 0.5
SHORTEST_PERIOD = 8


@dataclass(frozen=True, kw_only=True)
class BlackHoleRoPEConfig(Config, kind="black_hole_rope"):
    base: float = 10_000.0
    """Base of the rotary frequencies."""
    harmonics: Annotated[int, AtMost(1024)] = 8
    """Waves over the channels that bend the frequencies."""
    periods: Annotated[int, AtMost(32)] = 8
    """Waves over the tokens that gate the energy, of 8, 16, 32, ... tokens."""
    least_energy: float = 0.5
    """What a value is multiplied by at least."""
    most_energy: float = 2.0
    """What a value is multiplied by at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base <= 1 or min(self.harmonics, self.periods) < 1:
            raise ConfigError(
                f"black_hole_rope has base {self.base}, {self.harmonics} harmonics and {self.periods} periods; use a "
                f"base above 1 (10000 is usual) and 1 or more of each (8)."
            )
        if not 0 < self.least_energy < 1 < self.most_energy:
            raise ConfigError(
                f"black_hole_rope bounds the energy to {self.least_energy} .. {self.most_energy}, and a new value has "
                f"energy 1; use bounds on both sides of it (0.5 and 2 are usual)."
            )

    def build(self, groups: int, pairs: int) -> "BlackHoleRoPE":
        """Rotation and energy of `groups` heads of keys, each of that many rotary pairs."""
        return BlackHoleRoPE(self, groups, pairs)


class BlackHoleRoPE(nn.Module):
    def __init__(self, config: BlackHoleRoPEConfig, groups: int, pairs: int):
        super().__init__()
        self.config, self.pairs = config, pairs
        self.waves_name = f"waves {pairs} {config}"
        """Name of what is shared in a call."""
        self.bend = nn.Parameter(torch.empty(groups, 2 * config.harmonics))
        self.level = nn.Parameter(torch.empty(groups))
        self.waves = nn.Parameter(torch.empty(groups, 2 * config.periods))
        self.surprise = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for p in (self.bend, self.level, self.waves, self.surprise):
            init.zeros_(p)

    def init_state(self, batch: int, d_model: int) -> WindowState:
        return WindowState.new(self.level, batch, 1, d_model)

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (B, G, T, 2 pairs) at positions (B, T), for `rope.rotate`; angles in float64, where it exists."""
        return self._turned(_places(positions), self._channels(positions.device))

    def prepare(self, step: Step) -> dict[str, Any]:
        """Waves over channels and tokens, which follow from the config alone: all layers share them in a call."""
        return {self.waves_name: self._found(step)}

    def turn(self, step: Step) -> tuple[Tensor, Tensor]:
        """`rotation` at the positions of a call."""
        waves = self._prepared(step)
        return self._turned(waves.places, waves.channels)

    def energy(self, n: Tensor, step: Step, state: WindowState | None = None) -> tuple[Tensor, WindowState | None]:
        """e (B, T, G) of the tokens' values, from the normed stream n (B, T, D), and the state after the call."""
        before, after = look_back(n, 1, step, state)
        s = self.level.float() + _summed(self._prepared(step).tokens, self.waves)
        apart = _discrepancy(n.float(), before[:, :, 0].float())[..., None]
        s = torch.addcmul(s, self.surprise.float(), apart)
        c = self.config
        span = c.most_energy - c.least_energy
        neutral = torch.full_like(s, math.log((1 - c.least_energy) / (c.most_energy - 1)))
        return 1 + span * (torch.sigmoid(neutral + s) - torch.sigmoid(neutral)), after

    def _turned(self, places: Tensor, channels: "Channels") -> tuple[Tensor, Tensor]:
        bend = MOST_BEND * torch.tanh(_summed(channels.waves, self.bend))  # (pairs, G)
        frequency = signed(channels.frequency * bend.mT.exp())[:, None]  # (G, 1, 2 pairs)
        angles = places * frequency.to(places.dtype)  # (B, G, T, 2 pairs)
        return angles.cos().float(), angles.sin().float()

    def _prepared(self, step: Step) -> "Waves":
        found: Waves | None = step.shared.get(self.waves_name)
        return self._found(step) if found is None else found

    def _found(self, step: Step) -> "Waves":
        frequency = 2.0 ** -torch.arange(self.config.periods, device=step.tokens.device) / SHORTEST_PERIOD
        longest = SHORTEST_PERIOD * 2 ** (self.config.periods - 1)  # a period of all waves: what is left is exact
        alike = not step.reach and step.valid is None  # in whole rows without padding one row's positions serve all
        return Waves(
            self._channels(step.tokens.device),
            _waves((step.place % longest).float(), frequency),
            _places(step.positions[:1] if alike else step.positions),
        )

    def _channels(self, device: torch.device) -> "Channels":
        channel = torch.arange(self.pairs, dtype=torch.float32, device=device)
        harmonic = torch.arange(1, self.config.harmonics + 1, dtype=torch.float32, device=device)
        waves = _waves((channel + 0.5) / self.pairs, harmonic)
        return Channels(waves, self.config.base ** (-channel / self.pairs))


class Channels(NamedTuple):
    """What follows from a config for each rotary pair."""

    waves: Tensor
    """(pairs, 1, 2 harmonics)."""
    frequency: Tensor
    """(pairs,) before it is bent."""


class Waves(NamedTuple):
    """What follows from a config for the tokens of a call."""

    channels: Channels
    tokens: Tensor
    """(B, T, 1, 2 periods)."""
    places: Tensor
    """(B or 1, 1, T, 1) positions, wide."""


def _places(positions: Tensor) -> Tensor:
    """(B, T) -> (B, 1, T, 1), in float64 where the device has it."""
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    return positions[:, None, :, None].to(wide)


def _waves(x: Tensor, frequency: Tensor) -> Tensor:
    """x (...,) -> (..., 1, 2 n): cosines and sines of `frequency` (n,), float32."""
    angle = 2 * math.pi * x[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)[..., None, :]


def _summed(waves: Tensor, coefficients: Tensor) -> Tensor:
    """Waves (..., 1, 2 n) with coefficients (G, 2 n) -> (..., G)."""
    # A product and a sum: a matrix product this short gives bits that change with a row's place in memory.
    return (waves * coefficients.float()).sum(-1)


def _discrepancy(n: Tensor, before: Tensor) -> Tensor:
    """(B, T) in [0, 1]: 0 where nothing was before."""
    size = before.norm(dim=-1)
    apart = (n - before).norm(dim=-1) / (n.norm(dim=-1) + size + 1e-6)
    return apart * (size > 0)
