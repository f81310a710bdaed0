"""Phase oscillators on rings: the definition, and the mean field for compilers, for eager calls and for GPUs."""

from collections.abc import Callable

from torch import Tensor, compiler

from positronic.errors import DeviceError
from positronic.kernels.dispatch import asked_form, fused_runs
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
    asked = asked_form()
    if asked == "reference":
        return integrate_reference(theta, omega, drive, field, rings, steps, dt)
    if asked == "fused" and fused_runs(f"{__name__}.triton", theta.device.type, theta.dtype, _unfit(rings)):
        return _kernels()(theta, omega, drive, field, rings, steps, dt)
    if compiler.is_compiling():
        return integrate_mean_field(theta, omega, drive, field, rings, steps, dt)
    return integrate_adjoint(theta, omega, drive, field, rings, steps, dt)


def _kernels() -> Callable[..., Tensor]:
    """The fused form; `fused_runs` has found that it can be imported."""
    try:  # optional: code that is exported leaves it behind
        from positronic.kernels.kuramoto.triton import integrate_fused
    except ImportError as error:
        raise DeviceError(f"There are no fused kernels here: {error}. Unset POSITRONIC_KERNELS.") from error
    return integrate_fused


def _unfit(rings: tuple[int, ...]) -> str | None:
    """What keeps rings from the fused kernel."""
    if 3 <= len(rings) <= 7 and rings == tuple(4 << r for r in range(len(rings))):
        return None
    return f"rings must be 4, 8, 16 and so on up to at most 256, and these are {list(rings)}"
