"""The mean field in reused buffers, and its analytic adjoint in place of autograd's tape.

Forward keeps theta0, omega, u and the table only; backward replays the steps and walks back. With C + iS the sums of
e^{i theta} over rings, K' = K / n, a = dt kap cos al and b = dt kap sin al, a step is

G = K' (C + iS)      H = (a - ib) G + dt c e^{i phi_k}      theta += dt (omega + u) + Im H cos theta - Re H sin theta

and its adjoint, lam = dL/d theta after the step, real and imaginary parts of a gradient read as one complex number:

P  = -sum lam sin theta + i sum lam cos theta                            dL/dH, the sums over each ring
Q  = (a + ib) P          Y = K'^T Q                                      dL/dG, dL/d(C + iS)
dL/dK'_rs += Re(Q_r conj(C_s + iS_s))  over tokens                       dL/d omega, dL/du += dt lam
dL/da     += Re(P conj G)      dL/db += Im(conj(P) G)                    dL/d(dt c) += Re(P e^{-i phi_k})
lam       += (Im Y - lam Re H) cos theta - (Re Y + lam Im H) sin theta

Autograd finishes from the table to K, al, kap, c, phi0 and Om. 1e-12 of the definition and 1e-10 of its gradients in
float64. Rings' values lie as (2, ..., R): real, imaginary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from positronic.kernels.autocast import without_autocast
from positronic.kernels.kuramoto.mean_field import Table, tabulate
from positronic.kernels.kuramoto.reference import RingField

__all__ = ["integrate_adjoint"]


def integrate_adjoint(
    theta: Tensor, omega: Tensor, drive: Tensor | None, field: RingField, rings: tuple[int, ...], steps: int, dt: float
) -> Tensor:
    """Phases after `steps` Euler steps: what eager calls run, with and without gradient.

    Against `integrate_mean_field` in eager mode, 508 oscillators, 4 steps, one CPU thread: a call of 1 to 512 tokens
    takes 0.6 to 0.85 of the time; training takes as long and keeps 12 MB instead of 84 MB per 2,048 tokens.
    """
    table = tabulate(field.to(theta.dtype), rings, steps, dt)
    after: Tensor = _Adjoint.apply(theta, omega, drive, *table, rings, dt)
    return after


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        theta: Tensor,
        omega: Tensor,
        drive: Tensor | None,
        coupling: Tensor,
        along: Tensor,
        across: Tensor,
        centre: Tensor,
        clock: Tensor,
        rings: tuple[int, ...],
        dt: float,
    ) -> Tensor:
        table = Table(coupling, along, across, centre, clock)
        ctx.save_for_backward(theta, omega, drive, *table)
        ctx.rings, ctx.dt = rings, dt
        return _walk(theta, omega, drive, table, rings, dt)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        theta, omega, drive, *table = ctx.saved_tensors
        trace: list[_Moment] = []
        _walk(theta, omega, drive, Table(*table), ctx.rings, ctx.dt, trace)
        with without_autocast(grad.device.type):
            start, travelled, of_table = _walk_back(grad, Table(*table), ctx.rings, trace)
        moved = travelled.mul_(ctx.dt)
        return start, moved, None if drive is None else moved, *of_table, None, None


class _Summed:
    """A value (2, ..., N) at each oscillator and its sum (2, ..., R) over each ring: buffers, and views made once."""

    def __init__(self, like: Tensor, rings: tuple[int, ...]):
        self.each = like.new_empty(2, *like.shape)
        self.ring = like.new_empty(2, *like.shape[:-1], len(rings))
        self.views = list(zip(self.each.split(rings, -1), self.ring.unbind(-1), strict=True))

    def sum(self) -> Tensor:
        for members, total in self.views:
            torch.sum(members, -1, out=total)
        return self.ring


class _Spread:
    """A value (parts, ..., R) of each ring, and the same (parts, ..., N) at its members."""

    def __init__(self, like: Tensor, parts: int, rings: tuple[int, ...]):
        self.each = like.new_empty(parts, *like.shape)
        self.ring = like.new_empty(parts, *like.shape[:-1], len(rings))
        self.views = [one.expand(*one.shape[:-1], n) for one, n in zip(self.ring.split(1, -1), rings, strict=True)]

    def spread(self) -> tuple[Tensor, ...]:
        return torch.cat(self.views, -1, out=self.each).unbind()


class _Moment(NamedTuple):
    """One step, as backward needs it."""

    wave: _Summed
    """cos and sin of the phases before the step, and their sums."""
    mixed: Tensor
    """G (2, ..., R)."""
    felt: Tensor
    """H (2, ..., R)."""


def _walk(
    theta: Tensor,
    omega: Tensor,
    drive: Tensor | None,
    table: Table,
    rings: tuple[int, ...],
    dt: float,
    trace: list[_Moment] | None = None,
) -> Tensor:
    """Phases after all steps; a given trace receives each of them."""
    theta = theta.clone(memory_format=torch.contiguous_format)
    still = dt * (omega if drive is None else omega + drive)
    wave, felt = _Summed(theta, rings), _Spread(theta, 2, rings)
    for angle in table.clock.unbind():
        cos, sin = wave.each.unbind()
        torch.cos(theta, out=cos)
        torch.sin(theta, out=sin)
        mixed = (table.coupling * wave.sum()[..., None, :]).sum(-1)
        _feel(felt.ring, mixed, angle, table)
        felt_re, felt_im = felt.spread()
        theta.add_(still).addcmul_(felt_im, cos).addcmul_(felt_re, sin, value=-1)
        if trace is not None:
            trace.append(_Moment(wave, mixed, felt.ring.clone()))
            wave = _Summed(theta, rings)
    return theta


def _feel(felt: Tensor, mixed: Tensor, angle: Tensor, table: Table) -> None:
    """Write H into felt."""
    (felt_re, felt_im), (re, im), (cos, sin) = felt.unbind(), mixed.unbind(), angle.unbind()
    torch.mul(table.along, re, out=felt_re).addcmul_(table.across, im).addcmul_(table.centre, cos)
    torch.mul(table.along, im, out=felt_im).addcmul_(table.across, re, value=-1).addcmul_(table.centre, sin)


def _walk_back(
    grad: Tensor, table: Table, rings: tuple[int, ...], trace: list[_Moment]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradient of the first phases, the sum of lam over steps, and the table's gradient."""
    lam = grad.clone(memory_format=torch.contiguous_format)
    travelled = torch.zeros_like(lam)
    pushed, fields = _Summed(lam, rings), _Spread(lam, 4, rings)
    coupling = torch.zeros_like(table.coupling)
    along, across, centre = (lam.new_zeros(fields.ring.shape[1:]) for _ in range(3))
    clock = []
    for (wave, mixed, felt), angle in zip(reversed(trace), reversed(table.clock.unbind()), strict=True):
        travelled += lam
        torch.mul(wave.each, lam, out=pushed.each)
        push_im, minus_re = pushed.sum().unbind()
        push_re = -minus_re
        pull = torch.stack(
            (table.along * push_re - table.across * push_im, table.across * push_re + table.along * push_im)
        )
        (re, im), (east, north) = mixed.unbind(), angle.unbind()
        coupling += pull.flatten(0, -2).T @ wave.ring.flatten(0, -2)
        along.addcmul_(push_re, re).addcmul_(push_im, im)
        across.addcmul_(push_re, im).addcmul_(push_im, re, value=-1)
        centre.addcmul_(push_re, east).addcmul_(push_im, north)
        clock.append(torch.stack(((table.centre * push_re).sum(), (table.centre * push_im).sum())))

        torch.sum(table.coupling.T * pull[..., None, :], -1, out=fields.ring[:2])
        fields.ring[2:] = felt
        of_re, of_im, felt_re, felt_im = fields.spread()
        of_im.addcmul_(lam, felt_re, value=-1)
        of_re.addcmul_(lam, felt_im)
        cos, sin = wave.each.unbind()
        lam.addcmul_(of_im, cos).addcmul_(of_re, sin, value=-1)
    small = (
        x.sum_to_size(of.shape) for x, of in ((along, table.along), (across, table.across), (centre, table.centre))
    )
    return lam, travelled, [coupling, *small, torch.stack(clock[::-1])]
