"""The same dynamics through the rings' order parameters: O(N + R^2) a step. 1e-12 of the definition in float64.

Z_s = 1/n_s sum_{j in s} e^{i theta_j}        H_r = kap_r e^{-i al_r} sum_s K[r,s] Z_s + c_r e^{i (phi0 + Om k dt)}
theta_i += dt (omega_i + u_i + Im H_r cos theta_i - Re H_r sin theta_i)                                  r the ring of i

because Im(e^{-i theta_i} H_r) is the sum over all pairs: lag and centre fold into one complex number a ring.

Rings are summed and fields spread back by slices: an index would make compiled gradients scatter, and a product with a
matrix of ones rounds a row by its neighbours. The sum over s is elementwise for the same reason.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from positronic.kernels.kuramoto.reference import RingField

__all__ = ["Table", "integrate_mean_field", "order_parameters", "ring_means", "spread", "tabulate"]


class Table(NamedTuple):
    """The field's parameters with all that does not depend on phases worked out; differentiable in them."""

    coupling: Tensor
    """(R, R): K[r,s] / n_s, to be multiplied with sums over rings."""
    along: Tensor
    """(R,) or (..., R): dt kap cos al."""
    across: Tensor
    """(R,) or (..., R): dt kap sin al."""
    centre: Tensor
    """(R,) or (..., R): dt c."""
    clock: Tensor
    """(steps, 2): cos and sin of the centre's angle at each step."""


def tabulate(field: RingField, rings: tuple[int, ...], steps: int, dt: float) -> Table:
    """The table of a field, so that a step needs no trigonometry but the phases' own."""
    turn = dt if field.gain is None else dt * field.gain
    time = torch.arange(steps, dtype=field.speed.dtype, device=field.speed.device) * dt
    angle = field.phase + field.speed * time
    return Table(
        torch.cat([into / n for into, n in zip(field.coupling.split(1, -1), rings, strict=True)], -1),
        turn * torch.cos(field.lag),
        turn * torch.sin(field.lag),
        dt * field.centre,
        torch.stack((angle.cos(), angle.sin()), -1),
    )


def integrate_mean_field(
    theta: Tensor, omega: Tensor, drive: Tensor | None, field: RingField, rings: tuple[int, ...], steps: int, dt: float
) -> Tensor:
    """Phases after `steps` Euler steps, by differentiable operations that a compiler fuses."""
    coupling, along, across, centre, clock = tabulate(field.to(theta.dtype), rings, steps, dt)
    still = dt * (omega if drive is None else omega + drive)
    for k in range(steps):
        cos, sin = theta.cos(), theta.sin()
        re = (coupling * _ring_sums(cos, rings)[..., None, :]).sum(-1)  # (..., R)
        im = (coupling * _ring_sums(sin, rings)[..., None, :]).sum(-1)
        field_re = along * re + across * im + centre * clock[k, 0]
        field_im = along * im - across * re + centre * clock[k, 1]
        theta = theta + still + spread(field_im, rings) * cos - spread(field_re, rings) * sin
    return theta


def order_parameters(theta: Tensor, rings: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Re Z and Im Z, each (..., R): the mean of e^{i theta} over each ring. |Z| is 1 in step, near 0 in disorder."""
    re, im = ring_means(torch.stack((theta.cos(), theta.sin())), rings).unbind()
    return re, im


def ring_means(x: Tensor, rings: tuple[int, ...]) -> Tensor:
    """(..., N) -> (..., R)."""
    return torch.cat([ring.mean(-1, keepdim=True) for ring in x.split(rings, -1)], -1)


def spread(x: Tensor, rings: tuple[int, ...]) -> Tensor:
    """(..., R) -> (..., N): each ring's value at its members."""
    return torch.cat([one.expand(*x.shape[:-1], n) for one, n in zip(x.split(1, -1), rings, strict=True)], -1)


def _ring_sums(x: Tensor, rings: tuple[int, ...]) -> Tensor:
    """(..., N) -> (..., R)."""
    return torch.cat([ring.sum(-1, keepdim=True) for ring in x.split(rings, -1)], -1)
