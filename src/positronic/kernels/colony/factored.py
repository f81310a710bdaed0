"""The colony through its centres: each collects the tips' mass once, and every tip reads the F masses.

m_f = 1/N sum_i kap_if        rho_i = sum_f m_f kap_if        grad_i = sum_f m_f kap_if d_if / s_f^2

O(N F) a sensing, by differentiable operations that a compiler fuses; 1e-12 of the definition in float64. Inside, the
coordinates lie before the tips, (..., 3, N), so that sums over tips and over centres run along memory.
"""

import torch
from torch import Tensor

from positronic.kernels.colony.reference import ColonyField, Grown, bounded, limited

__all__ = ["grow_factored", "nearness"]


def grow_factored(position: Tensor, growth: Tensor, field: ColonyField, steps: int, dt: float) -> Grown:
    """The same as `grow_reference`. Autograd keeps the [3, F, N] differences of every step: see `adjoint`."""
    field, p, g = field.to(position.dtype), bounded(position.mT.contiguous(), -2), growth.mT.contiguous()
    velocity = torch.zeros_like(g)
    for _ in range(steps):
        g = field.persistence * g + field.tropism * _sense(p, field)[1]
        velocity = limited(g, field.speed, -2)
        p = bounded(p + dt * velocity, -2)
    return Grown(p.mT, velocity.mT, _sense(p, field)[0])


def nearness(p: Tensor, centres: Tensor, width: Tensor) -> Tensor:
    """exp(-|c_f - p_i|^2 / 2 s_f^2): p (..., 3, N), c (F, 3), s (F,) or () -> (..., F, N)."""
    d = centres.T[:, :, None] - p[..., None, :]  # (..., 3, F, N)
    return torch.exp(-d.square().sum(-3) / (2 * width[..., None] ** 2))


def _sense(p: Tensor, field: ColonyField) -> tuple[Tensor, Tensor]:
    """Density (..., N) and gradient (..., 3, N) at tips (..., 3, N)."""
    kap = nearness(p, field.centres, field.width)
    felt = kap.mean(-1, keepdim=True) * kap
    d = field.centres.T[:, :, None] - p[..., None, :]  # (..., 3, F, N)
    return felt.sum(-2), ((felt / field.width[:, None] ** 2)[..., None, :, :] * d).sum(-2)
