"""Phase oscillators on rings: the definition, and the mean field for compilers, eager calls, few tokens and GPUs."""

import torch
from torch import Tensor, compiler

from positronic.kernels.kuramoto.adjoint import integrate_adjoint
from positronic.kernels.kuramoto.few import MOST, integrate_few
from positronic.kernels.kuramoto.mean_field import integrate_mean_field, order_parameters, ring_means, spread
from positronic.kernels.kuramoto.reference import Modulation, RingField, integrate_reference
from positronic.kernels.registry import Form, best_form, register, triton_form

__all__ = [
    "Modulation",
    "RingField",
    "integrate",
    "integrate_adjoint",
    "integrate_few",
    "integrate_mean_field",
    "integrate_reference",
    "order_parameters",
    "ring_means",
    "spread",
]


def integrate(
    theta: Tensor, omega: Tensor, drive: Tensor | None, field: RingField, rings: tuple[int, ...], steps: int, dt: float
) -> Tensor:
    """Phases after `steps` Euler steps of `dt`, never wrapped.

    theta, omega, drive and the result are (..., N) float32, N = sum(rings) oscillators ring by ring; omega and drive
    in radians per unit of time; drive None is no current.
    """
    after: Tensor = best_form("kuramoto", theta, rings)(theta, omega, drive, field, rings, steps, dt)
    return after


def _compiled(theta: Tensor, rings: tuple[int, ...]) -> str | None:
    return "a compiler fuses the mean field better" if compiler.is_compiling() else None


def _many(theta: Tensor, rings: tuple[int, ...]) -> str | None:
    if compiler.is_compiling() or torch.is_grad_enabled():
        return "keeps nothing for a gradient, and a compiler fuses the mean field better"
    return "sums more numbers than the others" if theta.numel() * len(rings) > MOST else None


def _unfit(theta: Tensor, rings: tuple[int, ...]) -> str | None:
    fits = 3 <= len(rings) <= 7 and rings == tuple(4 << r for r in range(len(rings)))
    return None if fits else "takes 3 to 7 rings that double from 4"


register(
    "kuramoto",
    triton_form(
        f"{__name__}.triton",
        "integrate_fused",
        takes="float32 on CUDA, 3 to 7 rings that double from 4",
        dtypes=(torch.float32,),
        refuses=_unfit,
    ),
    Form(
        kind="torch",
        name="few",
        run=integrate_few,
        takes="eager calls of a few tokens without gradient, on a CPU",
        devices=("cpu",),
        refuses=_many,
    ),
    Form(kind="torch", name="adjoint", run=integrate_adjoint, takes="eager calls", refuses=_compiled),
    Form(kind="torch", name="mean field", run=integrate_mean_field),
    Form(kind="reference", run=integrate_reference),
)
