"""Phase oscillators on rings by their definition: every pair, one Euler step after the other.

d theta_i / dt = omega_i + u_i + sum_s K[r,s] kap_r / n_s sum_{j in s} sin(theta_j - theta_i - al_r)
                 + c_r sin(phi0 + Om k dt - theta_i)                                   r the ring of i, k the step

Shapes   theta, omega, u (..., N), the rings side by side; K (R, R), into ring r from ring s; al, c (R,) or (..., R);
         kap (..., R); phi0, Om scalars; omega, u, c, Om in radians per unit of time.
Cost     O(N^2) a step.
Source   Kuramoto 1975; Sakaguchi and Kuramoto 1986, "A soluble active rotator model", for the lag al; Acebron et al.
         2005, "The Kuramoto model". Gains between rings and the rotating centre are this project's.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Modulation", "RingField", "integrate_reference"]


class Modulation(NamedTuple):
    """What a ring controller does to the R rings of a bank, (B, T, R) each; its neutral values change no bit."""

    gain: Tensor
    """Factor of all couplings into a ring; neutral 1."""
    lag: Tensor
    """Added to a ring's phase lag, radians; neutral 0."""
    centre: Tensor
    """Factor of the pull of the rotating centre; neutral 1."""
    drive: Tensor
    """Factor of the injected current; neutral 1."""


class RingField(NamedTuple):
    """What the rings feel: from each other, and from the rotating centre."""

    coupling: Tensor
    """K (R, R): into ring r from ring s."""
    lag: Tensor
    """al (R,) or (B, T, R), radians: how far behind a ring wants to be."""
    centre: Tensor
    """c (R,) or (B, T, R): pull of the rotating centre."""
    phase: Tensor
    """phi0 (): where the centre starts, radians."""
    speed: Tensor
    """Om (): radians the centre turns per unit of time."""
    gain: Tensor | None = None
    """kap (B, T, R): factor of all couplings into a ring; None is 1."""

    def modulated(self, by: Modulation) -> "RingField":
        """The same under a controller; its drive is for the current, not for the field."""
        gain = by.gain if self.gain is None else self.gain * by.gain
        return self._replace(lag=self.lag + by.lag, centre=self.centre * by.centre, gain=gain)

    def to(self, dtype: torch.dtype) -> "RingField":
        return RingField(*(None if x is None else x.to(dtype) for x in self))  # type: ignore[arg-type]


def integrate_reference(
    theta: Tensor, omega: Tensor, drive: Tensor | None, field: RingField, rings: tuple[int, ...], steps: int, dt: float
) -> Tensor:
    """The definition, in the dtype of theta: phases after `steps` Euler steps."""
    field = field.to(theta.dtype)
    still = omega if drive is None else omega + drive
    for k in range(steps):
        now = field.phase + field.speed * (k * dt)
        theta = theta + dt * torch.cat(
            [own + _pull(theta, r, now, field, rings) for r, own in enumerate(still.split(rings, -1))], -1
        )
    return theta


def _pull(theta: Tensor, r: int, now: Tensor, field: RingField, rings: tuple[int, ...]) -> Tensor:
    """Velocity (..., n_r) that the rings and the centre, at angle `now`, give to ring r."""
    each = theta.split(rings, -1)
    lag = field.lag[..., r, None, None]
    coupled = sum(
        field.coupling[r, s] * torch.sin(other[..., None, :] - each[r][..., None] - lag).mean(-1)
        for s, other in enumerate(each)
    )
    if field.gain is not None:
        coupled = field.gain[..., r, None] * coupled
    return coupled + field.centre[..., r, None] * torch.sin(now - each[r])
