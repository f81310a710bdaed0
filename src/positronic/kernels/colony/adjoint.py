"""The colony through its centres in blocks of tokens, and its analytic adjoint in place of autograd's tape.

Forward keeps p and g as they come in; backward grows each block again and walks back. With adjoints a_x = dL/dx, the
density's h = a_rho (last sensing alone) and the gradient's w = trop a_g (all others), a sensing at p_i takes

q  = h_i + w_i . d / s_f^2                               adjoint of m_f kap
u  = (m_f q + 1/N sum_i q kap) kap / s_f^2               e = m_f kap / s_f^2
a_p_i += sum_f (u d - e w_i)                             a_c_f -= sum_i (u d - e w_i)
a_s_f += 1/s_f sum_i (u |d|^2 - 2 e w_i . d)

and the maps around it, with r = sqrt(|g|^2 + 1e-4) and g the growth vector that has just been turned,

a_p     = J_B a_p         J_B = B' along p and |B| / |p| across it
a_g     = v (a_ghat / r - g (g . a_ghat) / r^3) + a_g from the next step             a_v += g . a_ghat / r
a_trop += a_g . grad      a_lam += a_g . g before      and lam a_g goes to the step before

Accuracy  1e-12 of the definition and 1e-10 of its gradients in float64.
Memory    p and g, 6 N numbers a token, are all that is kept; nothing of size [F, N] outlives a block.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from positronic.kernels.autocast import without_autocast
from positronic.kernels.colony.reference import KNEE, SPEED_FLOOR, ColonyField, Grown, limited

__all__ = ["grow_adjoint"]

CPU_BLOCK, BLOCK = 64, 4096
"""Tokens at a time: on a CPU what stays in its cache, a megabyte of differences to 16 centres."""


def grow_adjoint(position: Tensor, growth: Tensor, field: ColonyField, steps: int, dt: float) -> Grown:
    """The same as `grow_reference`: what eager calls run, with and without gradient."""
    p, g = (x.reshape(-1, *x.shape[-2:]).mT.contiguous() for x in (position, growth))  # (rows, 3, N)
    p, velocity, density = _Adjoint.apply(p, g, *field.to(position.dtype), steps, dt)
    return Grown(
        p.mT.reshape(position.shape), velocity.mT.reshape(position.shape), density.reshape(position.shape[:-1])
    )


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        p: Tensor,
        g: Tensor,
        centres: Tensor,
        width: Tensor,
        tropism: Tensor,
        persistence: Tensor,
        speed: Tensor,
        steps: int,
        dt: float,
    ) -> tuple[Tensor, ...]:
        field = ColonyField(centres, width, tropism, persistence, speed)
        ctx.save_for_backward(p, g, *field)
        ctx.steps, ctx.dt = steps, dt
        ends = [_walk(first, growth, field, steps, dt) for first, growth in _blocks(p, g)]
        grown = [(end.position, end.velocity, end.sensed.felt.sum(-2)) for end in ends]
        return grown[0] if len(grown) == 1 else tuple(torch.cat(parts) for parts in zip(*grown, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        p, g, *rest = ctx.saved_tensors
        field, starts = ColonyField(*rest), []
        total = ColonyField(*(torch.zeros_like(x) for x in field))
        with without_autocast(p.device.type):
            for first, growth, *of_grown in _blocks(p, g, *grads):
                trace: list[_Moment] = []
                end = _walk(first, growth, field, ctx.steps, ctx.dt, trace)
                starts.append(_walk_back(end, Grown(*of_grown), field, ctx.dt, trace, total))
        return *(torch.cat(parts) for parts in zip(*starts, strict=True)), *total, None, None


def _blocks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The same rows of each, some tokens at a time."""
    size = CPU_BLOCK if tensors[0].device.type == "cpu" else BLOCK
    if len(tensors[0]) <= size:
        return [tensors]
    return list(zip(*(x.split(size) for x in tensors), strict=True))


class _Sensed(NamedTuple):
    """What tips (rows, 3, N) sense through the centres."""

    d: Tensor
    """(rows, 3, F, N)"""
    square: Tensor
    """|d|^2 (rows, F, N)."""
    kap: Tensor
    """(rows, F, N)"""
    mass: Tensor
    """m (rows, F, 1)."""
    felt: Tensor
    """m kap (rows, F, N)."""


class _Moment(NamedTuple):
    """One step, as backward needs it; all tips (rows, 3, N)."""

    free: Tensor
    """p before B."""
    sensed: _Sensed
    growth: Tensor
    """g before the turn."""
    gradient: Tensor
    turned: Tensor
    """g after it."""


class _End(NamedTuple):
    """Where the steps led to."""

    free: Tensor
    position: Tensor
    velocity: Tensor
    sensed: _Sensed


def _walk(
    free: Tensor, g: Tensor, field: ColonyField, steps: int, dt: float, trace: list[_Moment] | None = None
) -> _End:
    """All steps from tips (rows, 3, N) before B; a given trace receives each of them."""
    velocity, centres, per_square = torch.zeros_like(g), field.centres.T[:, :, None], _per_square(field)
    decay = -0.5 * per_square
    for _ in range(steps):
        p = _bounded(free)
        sensed = _sense(p, centres, decay)
        gradient = ((sensed.felt * per_square)[:, None] * sensed.d).sum(-2)
        turned = torch.addcmul(field.persistence * g, field.tropism, gradient)
        if trace is not None:
            trace.append(_Moment(free, sensed, g, gradient, turned))
        g, velocity = turned, limited(turned, field.speed, -2)
        free = torch.add(p, velocity, alpha=dt)
    p = _bounded(free)
    return _End(free, p, velocity, _sense(p, centres, decay))


def _bounded(p: Tensor) -> Tensor:
    """B at points (rows, 3, N) in fewer operations than the definition: tanh is odd."""
    r = p.square().sum(-2, keepdim=True).clamp(min=KNEE**2).sqrt()
    within = torch.tanh(torch.rsub(r, KNEE / (1 - KNEE), alpha=1 / (1 - KNEE)))  # -tanh((r - k) / (1 - k)), 0 at k
    return p * (torch.rsub(within, KNEE, alpha=1 - KNEE) / r)


def _sense(p: Tensor, centres: Tensor, decay: Tensor) -> _Sensed:
    """Through centres (3, F, 1); decay -1 / 2 s_f^2 (F, 1)."""
    d = centres - p[:, :, None]
    x, y, z = d.unbind(1)
    square = (x * x).addcmul_(y, y).addcmul_(z, z)
    kap = (square * decay).exp_()
    mass = kap.mean(-1, keepdim=True)
    return _Sensed(d, square, kap, mass, mass * kap)


def _per_square(field: ColonyField) -> Tensor:
    """1 / s_f^2 (F, 1)."""
    return (field.width**-2)[:, None]


def _walk_back(
    end: _End, grads: Grown, field: ColonyField, dt: float, trace: list[_Moment], total: ColonyField
) -> tuple[Tensor, Tensor]:
    """Gradients of the first positions and growth; those of the field are added to `total`."""
    of_p, of_velocity = grads.position + _masses_back(end.sensed, grads.density[:, None], field, total), grads.growth
    of_p, of_g = _bounded_back(end.free, of_p), torch.zeros_like(of_p)
    for moment in reversed(trace):
        g, of_ghat = moment.turned, torch.add(of_velocity, of_p, alpha=dt)
        of_velocity = torch.zeros_like(of_velocity)  # the last one alone is read out
        r = (g.square().sum(-2, keepdim=True) + SPEED_FLOOR).sqrt()
        along = (g * of_ghat).sum(-2, keepdim=True) / r
        of_g = of_g + field.speed / r * (of_ghat - g * (along / r))
        total.speed.add_(along.sum())
        total.tropism.add_((of_g * moment.gradient).sum())
        total.persistence.add_((of_g * moment.growth).sum())
        of_p = of_p + _gradient_back(moment.sensed, field.tropism * of_g, field, total)
        of_p, of_g = _bounded_back(moment.free, of_p), field.persistence * of_g
    return of_p, of_g


def _bounded_back(p: Tensor, of_b: Tensor) -> Tensor:
    """J_B of_b at points p (rows, 3, N)."""
    r = p.square().sum(-2, keepdim=True).clamp(min=KNEE**2).sqrt()
    beyond = torch.tanh((r - KNEE) / (1 - KNEE))
    across = (KNEE + (1 - KNEE) * beyond) / r
    radial = (p * of_b).sum(-2, keepdim=True) / r.square()
    return across * of_b + (1 - beyond.square() - across) * radial * p


def _gradient_back(sensed: _Sensed, w: Tensor, field: ColonyField, total: ColonyField) -> Tensor:
    """What the sensed gradient, of adjoint w, gives to the positions (rows, 3, N)."""
    x, y, z = (sensed.d * w[:, :, None]).unbind(1)
    along, e = x.add_(y).add_(z), sensed.felt * _per_square(field)  # (rows, F, N) each
    total.centres.add_((e @ w.mT).sum(0))
    total.width.sub_(2 * (e * along).sum((0, -1)) / field.width)
    of_p = _masses_back(sensed, along * _per_square(field), field, total)
    return of_p.addcmul_(w, e.sum(-2, keepdim=True), value=-1)


def _masses_back(sensed: _Sensed, q: Tensor, field: ColonyField, total: ColonyField) -> Tensor:
    """What m_f kap, of adjoint q (rows, F or 1, N), gives to the positions (rows, 3, N)."""
    of_mass = (q * sensed.kap).mean(-1, keepdim=True)
    u = (sensed.mass * q).add(of_mass).mul_(sensed.kap * _per_square(field))
    flow = u[:, None] * sensed.d
    total.centres.sub_(flow.sum((0, -1)).T)
    total.width.add_((u * sensed.square).sum((0, -1)) / field.width)
    return flow.sum(-2)
