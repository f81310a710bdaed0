"""The mean field as one GPU kernel each way: a warp a token, its phases in registers from the first step to the last.

With C + iS the sums of e^{i theta} over rings and the table of `mean_field`, a step is what `adjoint` writes out,

G = K' (C + iS)      H = (a - ib) G + dt c e^{i phi_k}      theta += dt (omega + u) + Im H cos theta - Re H sin theta

and so is its adjoint. Forward keeps C + iS and G of every step. Backward replays the phases from G, without a sum over
oscillators, walks back, and leaves P = dL/dH and Q = dL/dG. dL/dK' is the sum over tokens and steps of the products of
Q with C + iS; plain tensor code makes the gradients of a, b, dt c and the clock from P.

Shapes   theta, dt (omega + u) (n, N) for n tokens; rings of 4, 8, ..., 2^(R+1), R from 3 to 7. Behind four dead slots
         ring r begins at slot 2^(r+2) and is a block of its own; the first three share one of 32 with the dead.
Fields   a, b and c may be per token, as controllers make them, or one for all.
Accuracy float32 inside, cosine and sine by polynomials: as near to float64 as `integrate_mean_field` in float32 is.
         Equal calls give equal bits.
Cost     of 7 rings and 4 steps, 65,536 tokens, on an H200: 0.39 ms forward and 1.67 ms both ways, where the compiled
         mean field takes 1.25 and 5.37. Kept for backward are the inputs and 16 R bytes a step, 448 a token.
Source   `adjoint`; a warp a token, the slots and what is kept follow measurements of this project on an H200.
"""

# mypy: disable-error-code="assignment, no-untyped-def"

from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from positronic.kernels.kuramoto.mean_field import tabulate
from positronic.kernels.kuramoto.reference import RingField

__all__ = ["integrate_fused"]

ROWS = 256
"""Rows of Q and C + iS whose products one program adds."""
REGISTERS = 168
"""Of a lane in backward, so that 12 warps share a multiprocessor and not the 8 that it would have unasked."""
ROUND = tl.constexpr(12582912.0)
"""1.5 * 2^23: a float32 of this size has no fraction, and its lowest bit says odd or even."""


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
        _forward[(len(theta),)](
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
        _backward[(len(theta),)](
            *given, mixed, grad.contiguous(), of_theta, of_still, push, pull, rings, len(clock),
            num_warps=1, maxnreg=REGISTERS
        )  # fmt: skip
        _products[(len(parts),)](pull, sums, parts, rows, rings, triton.next_power_of_2(rings), ROWS)
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


@triton.jit
def _forward(
    theta_ptr, theta_stride, still_ptr, still_stride, coupling_ptr, response_ptr, response_stride, clock_ptr,
    after_ptr, sums_ptr, mixed_ptr, R: tl.constexpr, STEPS: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    theta = _load_bank(theta_ptr + token * theta_stride, R)
    still = _load_bank(still_ptr + token * still_stride, R)
    coupling = _load_row(coupling_ptr, R * R)
    response = _load_row(response_ptr + token * response_stride, 3 * R)
    for k in tl.static_range(STEPS):
        kept = (token * STEPS + k) * 2 * R
        cos, sin = _waves(theta, R)
        sums_re, sums_im = _ring_sums(cos, R), _ring_sums(sin, R)
        mixed = _product(coupling, sums_re, R, 1, R) + _product(coupling, sums_im, R, 1, R)
        _store_row(sums_ptr + kept, sums_re + sums_im, 2 * R)
        _store_row(mixed_ptr + kept, mixed, 2 * R)
        felt_re, felt_im = _felt(mixed, response, clock_ptr + 2 * k, R)
        theta = _forth(theta, still, cos, sin, felt_re, felt_im, R)
    _store_bank(after_ptr + token * ((4 << R) - 4), theta, R)


@triton.jit
def _backward(
    theta_ptr, theta_stride, still_ptr, still_stride, coupling_ptr, response_ptr, response_stride, clock_ptr,
    mixed_ptr, grad_ptr, of_theta_ptr, of_still_ptr, push_ptr, pull_ptr,
    R: tl.constexpr, STEPS: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    bank = token * ((4 << R) - 4)
    coupling = _load_row(coupling_ptr, R * R)
    response = _load_row(response_ptr + token * response_stride, 3 * R)
    still = _load_bank(still_ptr + token * still_stride, R)
    path = (_load_bank(theta_ptr + token * theta_stride, R),)
    for k in tl.static_range(STEPS - 1):
        mixed = _load_row(mixed_ptr + (token * STEPS + k) * 2 * R, 2 * R)
        felt_re, felt_im = _felt(mixed, response, clock_ptr + 2 * k, R)
        cos, sin = _waves(path[k], R)
        path += (_forth(path[k], still, cos, sin, felt_re, felt_im, R),)

    lam = _load_bank(grad_ptr + bank, R)
    travelled = lam
    for k in tl.static_range(STEPS - 1, -1, -1):
        kept = (token * STEPS + k) * 2 * R
        cos, sin = _waves(path[k], R)
        minus_re, push_im = _ring_sums(_times(lam, sin, R), R), _ring_sums(_times(lam, cos, R), R)
        push_re, pull_re, pull_im = (), (), ()
        for r in tl.static_range(R):
            push_re += (-minus_re[r],)
            pull_re += (response[r] * push_re[r] - response[R + r] * push_im[r],)
            pull_im += (response[R + r] * push_re[r] + response[r] * push_im[r],)
        _store_row(push_ptr + kept, push_re + push_im, 2 * R)
        _store_row(pull_ptr + kept, pull_re + pull_im, 2 * R)
        of_re, of_im = _product(coupling, pull_re, 1, R, R), _product(coupling, pull_im, 1, R, R)
        mixed = _load_row(mixed_ptr + kept, 2 * R)
        felt_re, felt_im = _felt(mixed, response, clock_ptr + 2 * k, R)
        lam = _back(lam, cos, sin, felt_re, felt_im, of_re, of_im, R)
        if k > 0:
            travelled = _plus(travelled, lam, R)
    _store_bank(of_theta_ptr + bank, lam, R)
    _store_bank(of_still_ptr + bank, travelled, R)


@triton.jit
def _products(pull_ptr, sums_ptr, parts_ptr, rows, R: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Of this program's rows, the sum of the products of Q (rows, R) and C + iS (rows, R): (R, R)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    s = tl.arange(0, WIDTH)
    sums = tl.load(sums_ptr + row[:, None] * R + s, mask=(row[:, None] < rows) & (s < R), other=0.0)
    for r in tl.static_range(R):
        pull = tl.load(pull_ptr + row * R + r, mask=row < rows, other=0.0)
        tl.store(parts_ptr + (tl.program_id(0) * R + r) * R + s, tl.sum(pull[:, None] * sums, 0), mask=s < R)


@triton.jit
def _felt(mixed, response, angle_ptr, R: tl.constexpr):
    """Re H and Im H of every ring."""
    east, north = tl.load(angle_ptr), tl.load(angle_ptr + 1)
    felt_re, felt_im = (), ()
    for r in tl.static_range(R):
        along, across, centre = response[r], response[R + r], response[2 * R + r]
        felt_re += (along * mixed[r] + across * mixed[R + r] + centre * east,)
        felt_im += (along * mixed[R + r] - across * mixed[r] + centre * north,)
    return felt_re, felt_im


@triton.jit
def _forth(theta, still, cos, sin, felt_re, felt_im, R: tl.constexpr):
    """Phases after a step."""
    after = ()
    for b in tl.static_range(R - 2):
        after += (theta[b] + still[b] + _members(felt_im, b) * cos[b] - _members(felt_re, b) * sin[b],)
    return after


@triton.jit
def _back(lam, cos, sin, felt_re, felt_im, of_re, of_im, R: tl.constexpr):
    """lam before a step, from lam after it and the adjoint of C + iS."""
    before = ()
    for b in tl.static_range(R - 2):
        to_cos = _members(of_im, b) - lam[b] * _members(felt_re, b)
        to_sin = _members(of_re, b) + lam[b] * _members(felt_im, b)
        before += (lam[b] + to_cos * cos[b] - to_sin * sin[b],)
    return before


@triton.jit
def _product(matrix, x, row: tl.constexpr, column: tl.constexpr, R: tl.constexpr):
    """A matrix of R rows with these strides, times x."""
    y = ()
    for r in tl.static_range(R):
        total = matrix[r * row] * x[0]
        for s in tl.static_range(1, R):
            total += matrix[r * row + s * column] * x[s]
        y += (total,)
    return y


@triton.jit
def _ring_sums(x, R: tl.constexpr):
    """R sums over the members of a ring."""
    slot = tl.arange(0, 32)
    sums = ()
    for r in tl.static_range(3):
        sums += (tl.sum(tl.where(slot // (4 << r) == 1, x[0], 0.0), 0),)
    for b in tl.static_range(1, R - 2):
        sums += (tl.sum(x[b], 0),)
    return sums


@triton.jit
def _members(x, b: tl.constexpr):
    """The rings' values at the slots of block b."""
    slot = tl.arange(0, 32)
    return x[b + 2] if b > 0 else tl.where(slot < 8, x[0], tl.where(slot < 16, x[1], x[2]))


@triton.jit
def _waves(theta, R: tl.constexpr):
    """Cosines and sines, block by block."""
    cos, sin = (), ()
    for b in tl.static_range(R - 2):
        c, s = _cos_sin(theta[b])
        cos += (c,)
        sin += (s,)
    return cos, sin


@triton.jit
def _cos_sin(x):
    """Less half turns, then minimax polynomials."""
    counted = x * 0.31830987 + ROUND
    turns = counted - ROUND
    x = x - turns * 3.140625 - turns * 9.6765358e-4
    square = x * x
    sin = -1.98233911e-4 + square * 2.63464431e-6
    sin = x + x * square * (-0.16666666311 + square * (8.3332574272e-3 + square * sin))
    cos = -1.38887184e-3 + square * (2.47782069e-5 - square * 2.63582175e-7)
    cos = 1.0 + square * (-0.5 + square * (4.1666663133e-2 + square * cos))
    odd = counted.to(tl.int32, bitcast=True) << 31  # the sign bit, where half turns are odd
    cos = (cos.to(tl.int32, bitcast=True) ^ odd).to(tl.float32, bitcast=True)
    sin = (sin.to(tl.int32, bitcast=True) ^ odd).to(tl.float32, bitcast=True)
    return cos, sin


@triton.jit
def _times(x, y, R: tl.constexpr):
    products = ()
    for b in tl.static_range(R - 2):
        products += (x[b] * y[b],)
    return products


@triton.jit
def _plus(x, y, R: tl.constexpr):
    sums = ()
    for b in tl.static_range(R - 2):
        sums += (x[b] + y[b],)
    return sums


@triton.jit
def _load_bank(ptr, R: tl.constexpr):
    """Oscillators from ptr on as blocks: 4 dead slots and three rings, then ring after ring."""
    slot = tl.arange(0, 32)
    x = (tl.load(ptr - 4 + slot, mask=slot >= 4, other=0.0),)
    for b in tl.static_range(1, R - 2):
        x += (tl.load(ptr - 4 + (16 << b) + tl.arange(0, 16 << b)),)
    return x


@triton.jit
def _store_bank(ptr, x, R: tl.constexpr):
    slot = tl.arange(0, 32)
    tl.store(ptr - 4 + slot, x[0], mask=slot >= 4)
    for b in tl.static_range(1, R - 2):
        tl.store(ptr - 4 + (16 << b) + tl.arange(0, 16 << b), x[b])


@triton.jit
def _load_row(ptr, N: tl.constexpr):
    """N numbers that all lanes hold."""
    x = ()
    for i in tl.static_range(N):
        x += (tl.load(ptr + i),)
    return x


@triton.jit
def _store_row(ptr, x, N: tl.constexpr):
    for i in tl.static_range(N):
        tl.store(ptr + i, x[i])
