"""A colony of growing tips by its definition: every tip senses every other through every centre, step after step.

p   = B(p)                                                                      first, then `steps` times:
rho_i  = 1/N sum_j sum_f kap_jf kap_if        grad_i = 1/N sum_j sum_f kap_jf kap_if d_if / s_f^2
         d_if = c_f - p_i                     kap_if = exp(-|d_if|^2 / 2 s_f^2)
g_i = lam g_i + trop grad_i                   ghat_i = v g_i / sqrt(|g_i|^2 + 1e-4)          p_i = B(p_i + dt ghat_i)

and rho once more where the tips have come to rest. B(p) = p inside the knee |p| = k = 3/4, and beyond it keeps the
direction and shortens |p| to k + (1 - k) tanh((|p| - k) / (1 - k)) < 1: once differentiable, and still inside.

The colony's energy E = N sum_f m_f^2, m_f = 1/N sum_i kap_if, has dE/dp_i = 2 grad_i: growth against it spreads.

Shapes   p, g, ghat, grad (..., N, 3); rho (..., N); c (F, 3), s (F,); trop, lam, v scalars.
Cost     O(N^2 F) a sensing, steps + 1 of them.
Source   Meskauskas, Fricker and Moore 2004, "Simulating colonial growth of fungi with the Neighbour-Sensing model of
         hyphal growth", Mycological Research 108 (11). Changed: the field is a Gaussian and passes through F centres,
         tips neither branch nor leave segments, and nothing is drawn by chance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["KNEE", "SPEED_FLOOR", "ColonyField", "Grown", "bounded", "grow_reference", "limited", "sense_reference"]

KNEE = 0.75
"""Distance from the origin up to which B leaves a point where it is."""
SPEED_FLOOR = 1e-4
"""Added to |g|^2 under the root, so that a tip without direction stands still."""


class ColonyField(NamedTuple):
    """Through what tips sense each other, and how they answer."""

    centres: Tensor
    """c (F, 3)."""
    width: Tensor
    """s (F,) > 0: how far a centre reaches."""
    tropism: Tensor
    """trop (): below 0 tips grow away from each other."""
    persistence: Tensor
    """lam (): share of its growth that a tip keeps from step to step."""
    speed: Tensor
    """v (): what no tip exceeds."""

    def to(self, dtype: torch.dtype) -> "ColonyField":
        return ColonyField(*(x.to(dtype) for x in self))


class Grown(NamedTuple):
    """Where the tips have come to rest."""

    position: Tensor
    """(..., N, 3), inside the unit ball."""
    growth: Tensor
    """ghat (..., N, 3): the velocity of the last step."""
    density: Tensor
    """rho (..., N) >= 0: what a tip senses of all, itself included."""


def grow_reference(position: Tensor, growth: Tensor, field: ColonyField, steps: int, dt: float) -> Grown:
    """The definition, in the dtype of the positions."""
    field, p, g = field.to(position.dtype), bounded(position), growth
    velocity = torch.zeros_like(g)
    for _ in range(steps):
        g = field.persistence * g + field.tropism * sense_reference(p, field)[1]
        velocity = limited(g, field.speed)
        p = bounded(p + dt * velocity)
    return Grown(p, velocity, sense_reference(p, field)[0])


def sense_reference(p: Tensor, field: ColonyField) -> tuple[Tensor, Tensor]:
    """Density (..., N) and its gradient (..., N, 3) at tips (..., N, 3), masses held."""
    n = p.shape[-2]
    d = field.centres - p[..., None, :]  # (..., N, F, 3)
    kap = torch.exp(-d.square().sum(-1) / (2 * field.width**2))  # (..., N, F)
    density, gradient = [], []
    for i in range(n):
        pairs = kap * kap[..., i : i + 1, :]  # (..., N, F): of all tips j with tip i
        density.append(pairs.sum((-1, -2)) / n)
        slope = d[..., i, :, :] / field.width[:, None] ** 2  # (..., F, 3)
        gradient.append((pairs[..., None] * slope[..., None, :, :]).sum((-2, -3)) / n)
    return torch.stack(density, -1), torch.stack(gradient, -2)


def bounded(p: Tensor, axis: int = -1) -> Tensor:
    """B along the axis of coordinates."""
    r = p.square().sum(axis, keepdim=True).clamp(min=KNEE**2).sqrt()  # the factor is exactly 1 up to the knee
    return p * ((KNEE + (1 - KNEE) * torch.tanh((r - KNEE) / (1 - KNEE))) / r)


def limited(g: Tensor, speed: Tensor, axis: int = -1) -> Tensor:
    """ghat along the axis of coordinates: the direction of g, never as fast as `speed`."""
    return g * (speed / (g.square().sum(axis, keepdim=True) + SPEED_FLOOR).sqrt())
