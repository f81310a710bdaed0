"""Phase oscillators on rings: the definition, and the mean field for compilers, for eager calls and for GPUs."""

from torch import Tensor, compiler

from positronic.kernels.dispatch import fused_form, fused_takes, reference_only
from positronic.kernels.kuramoto.adjoint import integrate_adjoint
from positronic.kernels.kuramoto.mean_field import integrate_mean_field, order_parameters, spread
from positronic.kernels.kuramoto.reference import Modulation, RingField, integrate_reference

__all__ = [
    "Modulation",
    "RingField",
    "integrate",
    "integrate_adjoint",
    "integrate_mean_field",
    "integrate_reference",
    "order_parameters",
    "spread",
]

integrate_fused = fused_form(f"{__name__}.triton", "integrate_fused")


def integrate(
    theta: Tensor, omega: Tensor, drive: Tensor | None, field: RingField, rings: tuple[int, ...], steps: int, dt: float
) -> Tensor:
    """Phases after `steps` Euler steps of `dt`, never wrapped.

    theta, omega, drive and the result are (..., N) float32, N = sum(rings) oscillators ring by ring; omega and drive
    in radians per unit of time; drive None is no current.
    """
    if reference_only():
        return integrate_reference(theta, omega, drive, field, rings, steps, dt)
    if integrate_fused is not None and fused_takes(theta) and _fused_fits(rings):
        after: Tensor = integrate_fused(theta, omega, drive, field, rings, steps, dt)
        return after
    if compiler.is_compiling():
        return integrate_mean_field(theta, omega, drive, field, rings, steps, dt)
    return integrate_adjoint(theta, omega, drive, field, rings, steps, dt)


def _fused_fits(rings: tuple[int, ...]) -> bool:
    return 3 <= len(rings) <= 7 and rings == tuple(4 << r for r in range(len(rings)))
