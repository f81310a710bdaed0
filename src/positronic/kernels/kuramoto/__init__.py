"""Phase oscillators on rings: the definition, and the mean field for compilers, for eager calls and for GPUs."""

import logging
import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, compiler

from positronic.kernels.dispatch import asked_form
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

log = logging.getLogger(__name__)


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
    if asked is not None and _fuses(theta.device.type, theta.dtype, rings):
        from positronic.kernels.kuramoto.triton import integrate_fused

        return integrate_fused(theta, omega, drive, field, rings, steps, dt, exact=asked == "fused-exact")
    if compiler.is_compiling():
        return integrate_mean_field(theta, omega, drive, field, rings, steps, dt)
    return integrate_adjoint(theta, omega, drive, field, rings, steps, dt)


@compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def _fuses(device: str, dtype: torch.dtype, rings: tuple[int, ...]) -> bool:
    """Whether the fused kernel runs here: asked while a graph is made, not in it."""
    return _fusible(device, dtype, rings)


@cache
def _fusible(device: str, dtype: torch.dtype, rings: tuple[int, ...]) -> bool:
    """The same, once: a line in the log says why not."""
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        missing = f"it is for CUDA and the phases are on {device}"
    elif find_spec("triton") is None:
        missing = "Triton is not installed"
    elif dtype != torch.float32:
        missing = f"it computes in float32 and the phases are {dtype}"
    elif not 3 <= len(rings) <= 7 or rings != tuple(4 << r for r in range(len(rings))):
        missing = f"its rings are 4, 8, 16 and so on up to 256, and these are {list(rings)}"
    else:
        import positronic.kernels.kuramoto.triton  # noqa: F401  (its operators are registered before a graph names them)

        return True
    log.warning("the fused form of the ring dynamics cannot run, for %s: the mean field runs instead", missing)
    return False
