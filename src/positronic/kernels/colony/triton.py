"""The colony as one GPU kernel each way: a warp a token, its tips in registers from the first step to the last.

Equations are those of `factored` and of `adjoint`, with 1 / s_f^2 from outside. Centres are looped over: each collects
its mass from all lanes, then every tip reads it. Forward keeps the masses of every sensing; backward grows the tips
again by them, without a sum over tips, and walks back. What each centre, the tropism, the persistence and the speed
receive is summed over a token's tips in the kernel and over tokens behind it.

Shapes   p, g (n, N, 3) float32 for n tokens, N of 32, 64, 96 or 128: N / 32 tips a lane.
Accuracy float32, as near to float64 as `grow_factored` in float32 is. Equal calls give equal bits: a sum has one order.
Cost     a bare colony of 96 tips, 16 centres and 3 steps, 65,536 tokens, on an H200: 4.1 ms both ways, and 30.8 with
         the compiled factored form. Kept for backward are the inputs and 4 F bytes a sensing.
Source   `adjoint`; that centres are looped over follows what this project measured on an H200.
"""

from typing import Any

import torch
from torch import Tensor

from positronic.kernels.colony.reference import ColonyField, Grown
from positronic.kernels.colony.triton_kernels import backward, forward

__all__ = ["grow_fused"]

REGISTERS = 128
"""Of a lane in backward, so that 16 warps share a multiprocessor and not the 8 that it would have unasked."""


def grow_fused(position: Tensor, growth: Tensor, field: ColonyField, steps: int, dt: float) -> Grown:
    """The same as `grow_reference`, on a GPU: float32, 32, 64, 96 or 128 tips."""
    field, tips = field.to(position.dtype), position.shape[-2:]
    centres = torch.cat([field.centres, field.width[:, None] ** -2], -1)  # (F, 4)
    answers = torch.stack((field.tropism, field.persistence, field.speed))
    p, velocity, density, _ = _run(position.reshape(-1, *tips), growth.reshape(-1, *tips), centres, answers, steps, dt)
    return Grown(p.view(position.shape), velocity.view(position.shape), density.view(position.shape[:-1]))


@torch.library.custom_op("positronic::colony", mutates_args=())
def _run(
    p: Tensor, g: Tensor, centres: Tensor, answers: Tensor, steps: int, dt: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, g (n, N, 3), centres (F, 4): c and 1 / s^2, answers (3,): trop, lam, v.

    p, ghat (n, N, 3) and rho (n, N) at the end; m (n, steps + 1, F).
    """
    results = _results(p, g, centres, answers, steps, dt)
    blocks = p.shape[1] // 32
    with torch.cuda.device_of(p):  # Triton launches on the device that is current
        forward[(len(p),)](*_given(p, g, centres, answers), *results, dt, len(centres), steps, blocks, num_warps=1)
    return results


@_run.register_fake
def _results(
    p: Tensor, g: Tensor, centres: Tensor, answers: Tensor, steps: int, dt: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tips, masses = p.shape, (p.shape[0], steps + 1, centres.shape[0])
    return p.new_empty(tips), p.new_empty(tips), p.new_empty(tips[:2]), p.new_empty(masses)


@torch.library.custom_op("positronic::colony_back", mutates_args=())
def _run_back(
    of_end: Tensor,
    of_velocity: Tensor,
    of_density: Tensor,
    p: Tensor,
    g: Tensor,
    centres: Tensor,
    answers: Tensor,
    masses: Tensor,
    steps: int,
    dt: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the gradients of what forward gave, and what it got and kept: those of p, g, centres and answers."""
    of_p, of_g = p.new_empty(p.shape), p.new_empty(p.shape)
    to_centres, to_answers = p.new_empty(*masses.shape, 4), p.new_empty(len(p), 3)
    grads = (x.contiguous() for x in (of_end, of_velocity, of_density))
    with torch.cuda.device_of(p):
        backward[(len(p),)](
            *_given(p, g, centres, answers), masses, *grads, of_p, of_g, to_centres, to_answers, dt,
            len(centres), steps, p.shape[1] // 32, num_warps=1, maxnreg=REGISTERS
        )  # fmt: skip
    return of_p, of_g, to_centres.sum((0, 1)), to_answers.sum(0)


@_run_back.register_fake
def _(
    of_end: Tensor,
    of_velocity: Tensor,
    of_density: Tensor,
    p: Tensor,
    g: Tensor,
    centres: Tensor,
    answers: Tensor,
    masses: Tensor,
    steps: int,
    dt: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return p.new_empty(p.shape), p.new_empty(p.shape), centres.new_empty(centres.shape), answers.new_empty(3)


def _given(p: Tensor, g: Tensor, centres: Tensor, answers: Tensor) -> tuple[Tensor | int, ...]:
    """What both kernels read first: tips with the strides of their rows."""
    p, g = (x if x.stride()[1:] == (3, 1) else x.contiguous() for x in (p, g))
    return p, p.stride(0), g, g.stride(0), centres.contiguous(), answers.contiguous()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *given, ctx.steps, ctx.dt = inputs
    ctx.save_for_backward(*given, output[-1])


def _gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return *_run_back(*grads[:3], *ctx.saved_tensors, ctx.steps, ctx.dt), None, None


_run.register_autograd(_gradients, setup_context=_keep)
