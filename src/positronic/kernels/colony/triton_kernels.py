"""The kernels behind `colony.triton`, which says what they compute: a program is a warp, and a warp is a token.

A number of every tip is a tuple of B blocks of 32 lanes, a vector of every tip 3 B of them, all of one axis together.
"""

# mypy: disable-error-code="assignment, no-untyped-def"

import math

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

from positronic.kernels.colony.reference import KNEE, SPEED_FLOOR

__all__ = ["backward", "forward"]

LANES = tl.constexpr(32)
HALVING = tl.constexpr(-0.5 / math.log(2))
"""e^{-x / 2} is 2 to the power of this times x."""
WITHIN, FLOOR = tl.constexpr(KNEE), tl.constexpr(SPEED_FLOOR)


@triton.jit
def forward(
    p_ptr, p_stride, g_ptr, g_stride, centres_ptr, answers_ptr,
    end_ptr, velocity_ptr, density_ptr, masses_ptr, dt,
    F: tl.constexpr, STEPS: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    p = _bounded(_load(p_ptr + token * p_stride, 3, B), B)
    g = _load(g_ptr + token * g_stride, 3, B)
    masses_ptr += token * (STEPS + 1) * F
    velocity = _zeros(3 * B)
    for k in tl.static_range(STEPS):
        gradient, _ = _sense(p, centres_ptr, masses_ptr + k * F, False, F, B)
        g = _turned(g, gradient, answers_ptr, B)
        velocity = _limited(g, answers_ptr, B)
        p = _bounded(_plus(p, velocity, dt, B), B)
    _, density = _sense(p, centres_ptr, masses_ptr + STEPS * F, False, F, B)
    _store(end_ptr + token * 96 * B, p, 3, B)
    _store(velocity_ptr + token * 96 * B, velocity, 3, B)
    _store(density_ptr + token * 32 * B, density, 1, B)


@triton.jit
def backward(
    p_ptr, p_stride, g_ptr, g_stride, centres_ptr, answers_ptr, masses_ptr,
    of_end_ptr, of_velocity_ptr, of_density_ptr, of_p_ptr, of_g_ptr, to_centres_ptr, to_answers_ptr, dt,
    F: tl.constexpr, STEPS: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    masses_ptr += token * (STEPS + 1) * F
    to_centres_ptr += token * (STEPS + 1) * F * 4
    free, growth = (_load(p_ptr + token * p_stride, 3, B),), (_load(g_ptr + token * g_stride, 3, B),)
    for k in tl.static_range(STEPS):
        p = _bounded(free[k], B)
        gradient, _ = _sense(p, centres_ptr, masses_ptr + k * F, True, F, B)
        growth += (_turned(growth[k], gradient, answers_ptr, B),)
        free += (_plus(p, _limited(growth[k + 1], answers_ptr, B), dt, B),)

    tropism, persistence, speed = tl.load(answers_ptr), tl.load(answers_ptr + 1), tl.load(answers_ptr + 2)
    to_tropism, to_persistence, to_speed = 0.0, 0.0, 0.0
    of_density = _load(of_density_ptr + token * 32 * B, 1, B)
    of_velocity = _load(of_velocity_ptr + token * 96 * B, 3, B)
    of_p, of_g = _load(of_end_ptr + token * 96 * B, 3, B), _zeros(3 * B)
    at = STEPS * F
    p = _bounded(free[STEPS], B)
    of_p, _ = _sense_back(p, of_density, of_g, of_p, centres_ptr, masses_ptr + at, to_centres_ptr + 4 * at, F, B)
    for k in tl.static_range(STEPS - 1, -1, -1):
        of_p = _bounded_back(free[k + 1], of_p, B)
        if k < STEPS - 1:
            of_velocity = _zeros(3 * B)  # the last one alone is read out
        of_ghat = _plus(of_velocity, of_p, dt, B)
        of_turn, along = _limited_back(growth[k + 1], of_ghat, speed, B)
        of_g = _plus(of_turn, of_g, 1.0, B)
        w = _plus(_zeros(3 * B), of_g, tropism, B)
        at = k * F
        p = _bounded(free[k], B)
        of_p, gradient = _sense_back(p, _zeros(B), w, of_p, centres_ptr, masses_ptr + at, to_centres_ptr + 4 * at, F, B)
        to_speed += along
        to_tropism += _total(of_g, gradient, B)
        to_persistence += _total(of_g, growth[k], B)
        of_g = _plus(_zeros(3 * B), of_g, persistence, B)
    _store(of_p_ptr + token * 96 * B, _bounded_back(free[0], of_p, B), 3, B)
    _store(of_g_ptr + token * 96 * B, of_g, 3, B)
    tl.store(to_answers_ptr + token * 3, to_tropism)
    tl.store(to_answers_ptr + token * 3 + 1, to_persistence)
    tl.store(to_answers_ptr + token * 3 + 2, to_speed)


@triton.jit
def _sense(p, centres_ptr, masses_ptr, KNOWN: tl.constexpr, F: tl.constexpr, B: tl.constexpr):
    """The density's gradient and the density; the masses are read where they are known, and else written."""
    gradient, density = _zeros(3 * B), _zeros(B)
    for f in range(F):
        d, near = _near(p, centres_ptr + 4 * f, B)
        narrow = tl.load(centres_ptr + 4 * f + 3)
        if KNOWN:
            mass = tl.load(masses_ptr + f)
        else:
            mass = _sum(near, B) / (32 * B)
            tl.store(masses_ptr + f, mass)
        felt, pull = (), ()
        for b in tl.static_range(B):
            felt += (mass * near[b],)
        for i in tl.static_range(3 * B):
            pull += (felt[i % B] * narrow * d[i],)
        gradient, density = _added(gradient, pull, 3 * B), _added(density, felt, B)
    return gradient, density


@triton.jit
def _sense_back(p, h, w, of_p, centres_ptr, masses_ptr, to_centres_ptr, F: tl.constexpr, B: tl.constexpr):
    """Added to of_p what sensing gives it, where h is dL/d rho and w is trop dL/dg; and the density's gradient."""
    gradient = _zeros(3 * B)
    for f in range(F):
        d, near = _near(p, centres_ptr + 4 * f, B)
        narrow, mass = tl.load(centres_ptr + 4 * f + 3), tl.load(masses_ptr + f)
        along, q, felt = (), (), ()
        for b in tl.static_range(B):
            along += (_inner(w, d, b, B),)
            q += ((h[b] + narrow * along[b]) * near[b],)
            felt += (mass * near[b],)
        of_mass = _sum(q, B) / (32 * B)
        u, widening = (), ()
        for b in tl.static_range(B):
            u += (mass * q[b] + of_mass * near[b],)
            widening += (felt[b] * along[b] - 0.5 * u[b] * _inner(d, d, b, B),)
        flow, pull = (), ()
        for i in tl.static_range(3 * B):
            flow += (narrow * (u[i % B] * d[i] - felt[i % B] * w[i]),)
            pull += (felt[i % B] * narrow * d[i],)
        of_p, gradient = _added(of_p, flow, 3 * B), _added(gradient, pull, 3 * B)
        for a in tl.static_range(3):
            tl.store(to_centres_ptr + 4 * f + a, -_sum(flow[a * B : (a + 1) * B], B))
        tl.store(to_centres_ptr + 4 * f + 3, _sum(widening, B))
    return of_p, gradient


@triton.jit
def _near(p, centre_ptr, B: tl.constexpr):
    """d to a centre and kap of it."""
    narrow = tl.load(centre_ptr + 3)
    d, near = (), ()
    for i in tl.static_range(3 * B):
        d += (tl.load(centre_ptr + i // B) - p[i],)
    for b in tl.static_range(B):
        near += (tl.exp2(HALVING * narrow * _inner(d, d, b, B)),)
    return d, near


@triton.jit
def _turned(g, gradient, answers_ptr, B: tl.constexpr):
    """Growth after a turn."""
    tropism, persistence = tl.load(answers_ptr), tl.load(answers_ptr + 1)
    turned = ()
    for i in tl.static_range(3 * B):
        turned += (persistence * g[i] + tropism * gradient[i],)
    return turned


@triton.jit
def _limited(g, answers_ptr, B: tl.constexpr):
    """ghat."""
    speed = tl.load(answers_ptr + 2)
    share, velocity = (), ()
    for b in tl.static_range(B):
        share += (speed / tl.sqrt(_inner(g, g, b, B) + FLOOR),)
    for i in tl.static_range(3 * B):
        velocity += (share[i % B] * g[i],)
    return velocity


@triton.jit
def _limited_back(g, of_ghat, speed, B: tl.constexpr):
    """What ghat gives to g, and to the speed."""
    share, along, total = (), (), ()
    for b in tl.static_range(B):
        share += (1.0 / tl.sqrt(_inner(g, g, b, B) + FLOOR),)
        total += (_inner(g, of_ghat, b, B) * share[b],)
        along += (total[b] * share[b],)
    of_g = ()
    for i in tl.static_range(3 * B):
        of_g += (speed * share[i % B] * (of_ghat[i] - g[i] * along[i % B]),)
    return of_g, _sum(total, B)


@triton.jit
def _bounded(p, B: tl.constexpr):
    """B(p)."""
    share, inside = (), ()
    for b in tl.static_range(B):
        _, _, across = _knee(p, b, B)
        share += (across,)
    for i in tl.static_range(3 * B):
        inside += (share[i % B] * p[i],)
    return inside


@triton.jit
def _bounded_back(p, of_b, B: tl.constexpr):
    """What B(p) gives to p."""
    share, radial, of_p = (), (), ()
    for b in tl.static_range(B):
        r, beyond, across = _knee(p, b, B)
        share += (across,)
        radial += ((1.0 - beyond * beyond - across) * _inner(p, of_b, b, B) / (r * r),)
    for i in tl.static_range(3 * B):
        of_p += (share[i % B] * of_b[i] + radial[i % B] * p[i],)
    return of_p


@triton.jit
def _knee(p, b: tl.constexpr, B: tl.constexpr):
    """|p|, but at least k; tanh((|p| - k) / (1 - k)); |B(p)| / |p|."""
    r = tl.sqrt(tl.maximum(_inner(p, p, b, B), WITHIN * WITHIN))
    fall = tl.exp((WITHIN - r) * (2.0 / (1.0 - WITHIN)))
    beyond = (1.0 - fall) / (1.0 + fall)
    return r, beyond, (WITHIN + (1.0 - WITHIN) * beyond) / r


@triton.jit
def _inner(x, y, b: tl.constexpr, B: tl.constexpr):
    """x . y of the tips of block b."""
    return x[b] * y[b] + x[B + b] * y[B + b] + x[2 * B + b] * y[2 * B + b]


@triton.jit
def _total(x, y, B: tl.constexpr):
    """x . y summed over tips."""
    inner = ()
    for b in tl.static_range(B):
        inner += (_inner(x, y, b, B),)
    return _sum(inner, B)


@triton.jit
def _sum(x, B: tl.constexpr):
    """Over all tips."""
    lanes = x[0]
    for b in tl.static_range(1, B):
        lanes += x[b]
    return tl.sum(lanes, 0)


@triton.jit
def _plus(x, y, factor, B: tl.constexpr):
    """x + factor y of vectors."""
    z = ()
    for i in tl.static_range(3 * B):
        z += (x[i] + factor * y[i],)
    return z


@triton.jit
def _added(x, y, N: tl.constexpr):
    z = ()
    for i in tl.static_range(N):
        z += (x[i] + y[i],)
    return z


@triton.jit
def _zeros(N: tl.constexpr):
    z = ()
    for _ in tl.static_range(N):
        z += (tl.zeros((LANES,), tl.float32),)
    return z


@triton.jit
def _load(ptr, WIDTH: tl.constexpr, B: tl.constexpr):
    """WIDTH numbers of every tip: the first of all blocks, then the second."""
    lane = tl.arange(0, LANES)
    x = ()
    for i in tl.static_range(WIDTH * B):
        x += (tl.load(ptr + (i % B * 32 + lane) * WIDTH + i // B),)
    return x


@triton.jit
def _store(ptr, x, WIDTH: tl.constexpr, B: tl.constexpr):
    lane = tl.arange(0, LANES)
    for i in tl.static_range(WIDTH * B):
        tl.store(ptr + (i % B * 32 + lane) * WIDTH + i // B, x[i])
