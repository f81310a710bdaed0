"""The kernels behind `kuramoto.triton`, which says what they compute: a program is a warp, and a warp is a token.

A bank of oscillators is a tuple of blocks, a ring's number a tuple of R scalars that all lanes hold. Behind four dead
slots ring r begins at slot 2^(r+2) and is a block of its own; the first three share one of 32 with the dead.
"""

# mypy: disable-error-code="assignment, no-untyped-def"

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

__all__ = ["backward", "forward", "products"]

ROUND = tl.constexpr(12582912.0)
"""1.5 * 2^23: a float32 of this size has no fraction, and its lowest bit says odd or even."""


@triton.jit
def forward(
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
def backward(
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
def products(pull_ptr, sums_ptr, parts_ptr, rows, R: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
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
