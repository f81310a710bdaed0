"""The mean field as one GPU kernel each way: a warp a token, its phases in registers from the first step to the last.

With C + iS the sums of e^{i theta} over rings and the table of `mean_field`, a step is what `adjoint` writes out,

G = K' (C + iS)      H = (a - ib) G + dt c e^{i phi_k}      theta += dt (omega + u) + Im H cos theta - Re H sin theta

and so is its adjoint. Forward keeps C + iS and G of every step. Backward replays the phases from G, without a sum over
oscillators, walks back, and leaves P = dL/dH and Q = dL/dG. dL/dK' is the sum over tokens and steps of the products of
Q with C + iS; plain tensor code makes the gradients of a, b, dt c and the clock from P.

Shapes   theta, dt (omega + u) (n, N) for n tokens; rings of 4, 8, ..., 2^(R+1), R from 3 to 7.
Fields   a, b and c may be per token, as controllers make them, or one for all.
Accuracy float32 inside, cosine and sine by polynomials: as near to float64 as `integrate_mean_field` in float32 is.
         Equal calls give equal bits.
Cost     of 7 rings and 4 steps, 65,536 tokens, on an H200: 0.39 ms forward and 1.67 ms both ways, where the compiled
         mean field takes 1.25 and 5.37. Kept for backward are the inputs and 16 R bytes a step, 448 a token.
Source   `adjoint`; a warp a token, the slots and what is kept follow measurements of this project on an H200.
"""

from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from positronic.kernels.kuramoto.mean_field import tabulate
from positronic.kernels.kuramoto.reference import RingField
from positronic.kernels.kuramoto.triton_kernels import backward, forward, products

__all__ = ["integrate_fused"]

ROWS = 256
"""Rows of Q and C + iS whose products one program adds."""
REGISTERS = 168
"""Of a lane in backward, so that 12 warps share a multiprocessor and not the 8 that it would have unasked."""


def integrate_fused(
    theta: Tensor,
    omega: Tensor,
    drive: Tensor | None,
    field: RingField,
    rings: tuple[int, ...],
    steps: int,
    dt: float,
) -> Tensor:
    """Phases after `steps` Euler steps, on a GPU: theta float32, rings 4, 8, 16 and so on, three of them or more."""
    table, n = tabulate(field.to(theta.dtype), rings, steps, dt), theta.shape[-1]
    response = torch.stack(torch.broadcast_tensors(table.along, table.across, table.centre), -2)  # (..., 3, R)
    if response.dim() > 2:
        response = response.expand(*theta.shape[:-1], -1, -1)
    still = dt * (omega if drive is None else omega + drive)
    after, _, _ = _run(
        theta.reshape(-1, n),
        still.reshape(-1, n),
        table.coupling,
        response.reshape(-1, 3, len(rings)),
        table.clock,
    )
    return after.view(theta.shape)


@torch.library.custom_op("positronic::kuramoto", mutates_args=())
def _run(
    theta: Tensor, still: Tensor, coupling: Tensor, response: Tensor, clock: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """theta, still (n, N), K' (R, R), response (n or 1, 3, R): a, b, dt c; clock (steps, 2).

    The phases after all steps (n, N); (C, S) and (Re G, Im G) of every step, (n, steps, 2, R) each.
    """
    results = _results(theta, still, coupling, response, clock)
    with torch.cuda.device_of(theta):  # Triton launches on the device that is current
        forward[(len(theta),)](
            *_given(theta, still, coupling, response, clock), *results, len(coupling), len(clock), num_warps=1
        )
    return results


@_run.register_fake
def _results(
    theta: Tensor, still: Tensor, coupling: Tensor, response: Tensor, clock: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    kept = theta.shape[0], clock.shape[0], 2, coupling.shape[0]
    return theta.new_empty(theta.shape), theta.new_empty(kept), theta.new_empty(kept)


@torch.library.custom_op("positronic::kuramoto_back", mutates_args=())
def _run_back(
    grad: Tensor,
    theta: Tensor,
    still: Tensor,
    coupling: Tensor,
    response: Tensor,
    clock: Tensor,
    sums: Tensor,
    mixed: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From dL/d(phases after) and what forward got and kept: gradients of theta, still and K'; P, laid out as G is."""
    given, rings = _given(theta, still, coupling, response, clock), len(coupling)
    of_theta, of_still = theta.new_empty(theta.shape), theta.new_empty(theta.shape)
    push, pull = torch.empty_like(mixed), torch.empty_like(mixed)
    rows = pull.numel() // rings
    parts = theta.new_empty(triton.cdiv(rows, ROWS), rings, rings)
    with torch.cuda.device_of(theta):
        backward[(len(theta),)](
            *given, mixed, grad.contiguous(), of_theta, of_still, push, pull, rings, len(clock),
            num_warps=1, maxnreg=REGISTERS
        )  # fmt: skip
        products[(len(parts),)](pull, sums, parts, rows, rings, triton.next_power_of_2(rings), ROWS)
    return of_theta, of_still, parts.sum(0), push


@_run_back.register_fake
def _(
    grad: Tensor,
    theta: Tensor,
    still: Tensor,
    coupling: Tensor,
    response: Tensor,
    clock: Tensor,
    sums: Tensor,
    mixed: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bank = theta.shape
    return theta.new_empty(bank), theta.new_empty(bank), torch.empty_like(coupling), torch.empty_like(mixed)


def _given(theta: Tensor, still: Tensor, coupling: Tensor, response: Tensor, clock: Tensor) -> tuple[Tensor | int, ...]:
    """What both kernels read first: rows with their strides, of which a response for all tokens has none."""
    theta, still = (x if x.stride(1) == 1 else x.contiguous() for x in (theta, still))
    response = response.contiguous()
    step = 0 if len(response) == 1 else response.stride(0)
    return theta, theta.stride(0), still, still.stride(0), coupling.contiguous(), response, step, clock.contiguous()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    theta, still, coupling, response, clock, sums, mixed = ctx.saved_tensors
    of_theta, of_still, of_coupling, push = _run_back(grad, theta, still, coupling, response, clock, sums, mixed)
    (push_re, push_im), (re, im), (east, north) = push.unbind(2), mixed.unbind(2), clock.split(1, -1)
    along, across, centre = push_re * re + push_im * im, push_re * im - push_im * re, push_re * east + push_im * north
    of_response = torch.stack((along, across, centre), 2).sum(1).sum_to_size(response.shape)
    of_clock = (response[:, None, None, 2] * push).sum((0, 3))  # (steps, 2)
    return of_theta, of_still, of_coupling, of_response, of_clock


_run.register_autograd(_gradients, setup_context=_keep)
