"""Phase oscillators on rings: the definition, and the mean field in one form for compilers and one for eager calls."""

from torch import Tensor, compiler

from positronic.kernels.dispatch import reference_only
from positronic.kernels.kuramoto.adjoint import integrate_adjoint
from positronic.kernels.kuramoto.mean_field import integrate_mean_field, order_parameters, spread
from positronic.kernels.kuramoto.reference import RingField, integrate_reference

__all__ = [
    "RingField",
    "integrate",
    "integrate_adjoint",
    "integrate_mean_field",
    "integrate_reference",
    "order_parameters",
    "spread",
]


def integrate(
    theta: Tensor, omega: Tensor, drive: Tensor | None, field: RingField, rings: tuple[int, ...], steps: int, dt: float
) -> Tensor:
    """Phases after `steps` Euler steps of `dt`, never wrapped.

    theta, omega, drive and the result are (..., N) float32, N = sum(rings) oscillators ring by ring; omega and drive
    in radians per unit of time; drive None is no current.
    """
    if reference_only():
        return integrate_reference(theta, omega, drive, field, rings, steps, dt)
    if compiler.is_compiling():
        return integrate_mean_field(theta, omega, drive, field, rings, steps, dt)
    return integrate_adjoint(theta, omega, drive, field, rings, steps, dt)
