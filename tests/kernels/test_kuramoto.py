from math import sin

import pytest
import torch
from functorch.compile import make_boxed_func
from ring_example import BANK, FIELDS, RINGS, B, N, R, T, bank_of, draw, field_of, worst_error
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from positronic.kernels.kuramoto import (
    Modulation,
    RingField,
    integrate,
    integrate_adjoint,
    integrate_few,
    integrate_mean_field,
    integrate_reference,
    order_parameters,
    spread,
)

FORMS = {"mean field": integrate_mean_field, "adjoint": integrate_adjoint, "few": integrate_few}
FREE_OF_MOVES = {name: form for name, form in FORMS.items() if name != "few"}
"""Forms that gradients run through; what is for a few tokens without one may index."""
MOVES = {"index", "index_put", "index_put_", "index_add", "index_add_", "index_select", "gather", "take", "embedding"}
MOVES |= {"scatter", "scatter_", "scatter_add", "scatter_add_"}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def alone(n_rings=R, **changes):
    """A field that does nothing, but for the changes."""
    nothing = RingField(*(torch.zeros(s, dtype=torch.float64) for s in ((n_rings, n_rings), n_rings, n_rings, (), ())))
    return nothing._replace(**changes)


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("kind", FIELDS)
def test_the_mean_field_equals_all_pairs(form, kind, driven):
    bank, field = bank_of(driven=driven), field_of(kind)
    assert (form(*bank, field, RINGS, 4, 0.5) - integrate_reference(*bank, field, RINGS, 4, 0.5)).abs().max() < 1e-12


def test_the_default_bank_equals_all_pairs(form):
    bank, field = bank_of((1, 2), sum(BANK)), field_of("per token", len(BANK), (1, 2))
    error = (form(*bank, field, BANK, 4, 0.5) - integrate_reference(*bank, field, BANK, 4, 0.5)).abs().max()
    assert error < 1e-12


def test_two_steps_by_hand():
    """A ring of two feels itself, a lag and the turning centre."""
    (a, b), omega, dt, field = (0.3, -1.1), 0.7, 0.5, field_of(n_rings=1)
    theta = torch.tensor([a, b], dtype=torch.float64)
    K, al, c, phi, speed = (float(x) for x in field[:5])
    for now in (phi, phi + speed * dt):
        a, b = (me + dt * (omega + K * (sin(a - me - al) + sin(b - me - al)) / 2 + c * sin(now - me)) for me in (a, b))
    for run in (integrate, integrate_reference):
        after = run(theta, torch.full_like(theta, omega), None, field, (2,), 2, dt)
        assert (after - torch.tensor([a, b], dtype=torch.float64)).abs().max() < 1e-14


@pytest.mark.parametrize("delta", [0.7, -5.0])
def test_without_a_centre_a_common_phase_stays_common(form, delta):
    (theta, omega, _), field = bank_of(driven=False), field_of("gain")._replace(centre=torch.zeros(R).double())
    moved = form(theta + delta, omega, None, field, RINGS, 4, 0.5)
    assert (moved - form(theta, omega, None, field, RINGS, 4, 0.5) - delta).abs().max() < 1e-12


def test_members_of_a_ring_may_change_places(form):
    order = torch.tensor([1, 0, 4, 2, 3, 9, 5, 7, 6, 8])
    bank, field = bank_of(), field_of("per token")
    shuffled = form(*(x[..., order] for x in bank), field, RINGS, 4, 0.5)
    assert (shuffled - form(*bank, field, RINGS, 4, 0.5)[..., order]).abs().max() < 1e-12


@pytest.mark.parametrize("kind", FIELDS)
def test_a_modulated_field_is_the_field_of_its_product(kind):
    field, by = field_of(kind), Modulation(*(draw(B, T, R, seed=s) for s in (11, 12, 13, 14)))
    gain = by.gain if field.gain is None else field.gain * by.gain
    expected = RingField(field.coupling, field.lag + by.lag, field.centre * by.centre, *field[3:5], gain)
    assert all(torch.equal(a, b) for a, b in zip(field.modulated(by), expected, strict=True))


def test_a_neutral_modulation_changes_no_bit():
    bank, field = bank_of(dtype=torch.float32), field_of(dtype=torch.float32)
    one, nothing = torch.ones(B, T, R), torch.zeros(B, T, R)
    modulated = field.modulated(Modulation(one, nothing, one, one))
    assert torch.equal(integrate(*bank, modulated, RINGS, 4, 0.5), integrate(*bank, field, RINGS, 4, 0.5))


def test_a_value_of_a_ring_is_spread_to_its_members():
    assert spread(torch.tensor([[1.0, 2.0, 3.0]]), RINGS).tolist() == [[1, 1, 2, 2, 2, 3, 3, 3, 3, 3]]


def test_without_coupling_each_oscillator_keeps_its_own_time(form):
    theta, omega, _ = bank_of()
    after = form(theta, omega, None, alone(), RINGS, 4, 0.5)
    assert (after - (theta + 4 * 0.5 * omega)).abs().max() < 1e-12


def akorn_velocity(x, omega, K):
    """dx/dt (N, 2) of unit vectors x: each turns by omega and is drawn to K times the mean, along its tangent."""
    force = (K * x.mean(0)).expand_as(x)
    turning = omega[:, None] * torch.stack((-x[:, 1], x[:, 0]), 1)
    return turning + force - (force * x).sum(1, keepdim=True) * x


def akorn_step(theta, omega, K, dt):
    """One step of AKOrN (arXiv 2410.13821) with two-dimensional oscillators, read as angles near theta."""
    x = torch.stack((theta.cos(), theta.sin()), 1)
    x = torch.nn.functional.normalize(x + dt * akorn_velocity(x, omega, K), dim=1)
    turned = torch.atan2(x[:, 1], x[:, 0]) - theta
    return theta + torch.atan2(turned.sin(), turned.cos())


def test_one_ring_without_lag_moves_like_akorn_in_two_dimensions():
    theta, omega, K = draw(12, std=2.0), draw(12, seed=1), 1.7
    field = alone(1, coupling=torch.full((1, 1), K, dtype=torch.float64))

    x = torch.stack((theta.cos(), theta.sin()), 1)
    tangent = torch.stack((-theta.sin(), theta.cos()), 1)
    ours = integrate(theta, omega, None, field, (12,), 1, 1.0) - theta
    assert (ours - (akorn_velocity(x, omega, K) * tangent).sum(1)).abs().max() < 1e-12

    apart = [
        (integrate(theta, omega, None, field, (12,), 1, dt) - akorn_step(theta, omega, K, dt)).abs().max()
        for dt in (0.04, 0.02)
    ]
    assert 7.5 < apart[0] / apart[1] < 8.5, "a step and its renormalised step differ by dt^3 v^3 / 3"


def test_with_reciprocal_couplings_the_energy_never_rises(form):
    sizes, C = torch.tensor(RINGS).double(), draw(R, R, seed=1)
    K = (C + C.T) * sizes / N

    def energy(theta):
        re, im = order_parameters(theta, RINGS)
        return -0.5 * (sizes[:, None] * K * (re[:, None] * re + im[:, None] * im)).sum()

    theta, energies = draw(N, std=2.0), []
    for _ in range(200):
        energies.append(energy(theta))
        theta = form(theta, torch.full((N,), 0.4, dtype=torch.float64), None, alone(coupling=K), RINGS, 1, 0.05)
    change = torch.stack(energies).diff()
    assert change.max() < 1e-12
    assert change.sum() < -0.1, "nothing moved"


def test_order_parameters_lie_between_disorder_and_step():
    def size(theta):
        re, im = order_parameters(theta, BANK)
        return (re.square() + im.square()).sqrt()

    assert size(draw(50, sum(BANK), std=3.0)).max() <= 1
    assert (size(draw(50, 1).expand(50, sum(BANK))) - 1).abs().max() < 1e-14
    assert size(torch.cat([torch.arange(n, dtype=torch.float64) * 2 * torch.pi / n for n in BANK])).max() < 1e-13


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("kind", FIELDS)
def test_gradients_of_everything_equal_those_of_the_definition(form, kind, driven):
    def gradients(run):
        bank, field = bank_of(driven=driven), field_of(kind)
        given = [x.requires_grad_() for x in (*bank, *field) if x is not None]
        run(*bank, field, RINGS, 4, 0.5).backward(draw(B, T, N, seed=10))
        return [x.grad for x in given]

    for ours, definition in zip(gradients(form), gradients(integrate_reference), strict=True):
        assert (ours - definition).abs().max() < 1e-10 * definition.abs().max()


@pytest.mark.parametrize("kind", ["plain", "per token"])
def test_the_adjoint_equals_finite_differences(kind):
    bank, field = bank_of((1, 2)), field_of(kind, rows=(1, 2))
    given = [x.requires_grad_() for x in (*bank, *field) if x is not None]
    assert torch.autograd.gradcheck(lambda *x: integrate_adjoint(*x[:3], RingField(*x[3:]), RINGS, 3, 0.5), given)


def test_the_adjoint_takes_views_broadcast_gradients_and_inputs_without_gradient():
    joined = draw(B, T, 2 * N, std=2.0).requires_grad_()
    theta, omega = joined.split(N, -1)
    grads = [
        torch.autograd.grad(run(theta, omega, None, field_of("gain"), RINGS, 4, 0.5).sum(), joined)[0]
        for run in (integrate_adjoint, integrate_reference)
    ]
    assert (grads[0] - grads[1]).abs().max() < 1e-10 * grads[1].abs().max()


def test_the_adjoint_keeps_its_inputs_and_small_tables_only():
    def kept(run):
        storages = {}

        def pack(x):
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        bank, field = (x.requires_grad_() for x in bank_of(n=sum(BANK))), field_of(n_rings=len(BANK))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            after = run(*bank, field, BANK, 4, 0.5)
        assert after.requires_grad
        return sum(storages.values()) / after.untyped_storage().nbytes()

    assert kept(integrate_adjoint) < 3.2
    assert kept(integrate_mean_field) > 15


@torch.no_grad()
def test_a_few_tokens_without_gradient_run_the_form_for_few():
    bank, field = bank_of((2, 8), dtype=torch.float32), field_of("per token", rows=(2, 8), dtype=torch.float32)
    few, more = (form(*bank, field, RINGS, 4, 0.5) for form in (integrate_few, integrate_adjoint))
    assert torch.equal(integrate(*bank, field, RINGS, 4, 0.5), few)
    assert 0 < (few - more).abs().max() < 1e-5
    bank, field = bank_of((2, 200), dtype=torch.float32), field_of("per token", rows=(2, 200), dtype=torch.float32)
    assert torch.equal(integrate(*bank, field, RINGS, 4, 0.5), integrate_adjoint(*bank, field, RINGS, 4, 0.5))


def test_large_phases_keep_single_precision():
    wide, field = bank_of((B, T), sum(BANK), std=40.0), field_of("per token", len(BANK))
    narrow, narrow_field = [x.float() for x in wide], field.to(torch.float32)
    exact = integrate(*(x.double() for x in narrow), narrow_field.to(torch.float64), BANK, 4, 0.5)
    for run in (integrate, integrate_mean_field):
        after = run(*narrow, narrow_field, BANK, 4, 0.5)
        assert after.dtype == torch.float32
        assert (after - exact).abs().max() < 1e-6 * exact.abs().max()


@pytest.mark.parametrize("form", [integrate_adjoint, integrate_few])
@pytest.mark.parametrize("kind", FIELDS)
def test_a_row_has_the_same_bits_alone_as_among_others(form, kind):
    rows, n = (3, 17), sum(BANK)
    bank, field = bank_of(rows, n, dtype=torch.float32), field_of(kind, len(BANK), rows, torch.float32)
    together = form(*bank, field, BANK, 4, 0.5)
    for b, first, last in ((0, 0, 1), (1, 16, 17), (2, 3, 8), (0, 1, 17)):

        def part(x, place=(slice(b, b + 1), slice(first, last))):
            return x[place].clone() if x is not None and x.dim() == 3 else x

        piece = form(*(part(x) for x in bank), RingField(*(part(x) for x in field)), BANK, 4, 0.5)
        assert torch.equal(piece, part(together)), f"row {b}, tokens {first} to {last}"


class Operations(TorchDispatchMode):
    """The names of all operations, backward included."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", FREE_OF_MOVES.values(), ids=FREE_OF_MOVES)
def test_nothing_is_gathered_or_scattered(form):
    bank, field = bank_of(), field_of("per token")
    for x in (*bank, *field):
        x.requires_grad_()
    with Operations() as seen:
        form(*bank, field, RINGS, 4, 0.5).sum().backward()
    assert {"cos", "sin", "cat"} <= seen.names
    assert not seen.names & MOVES


def compiled_step(**how):
    """Phases and gradients of everything, out of the compiled dynamics."""
    bank, field = bank_of(dtype=torch.float32), field_of("per token", dtype=torch.float32)
    given = [x.requires_grad_() for x in (*bank, *field)]
    run = torch.compile(integrate, fullgraph=True, dynamic=False, **how) if how else integrate
    after = run(*bank, field, RINGS, 4, 0.5)
    after.square().sum().backward()
    return [after.detach(), *(x.grad for x in given)]


def test_the_compiled_graph_equals_eager_and_moves_nothing_by_index():
    names = set()

    def collect(graph, _):
        names.update(
            node.target.overloadpacket.__name__ for node in graph.graph.nodes if hasattr(node.target, "overloadpacket")
        )
        return make_boxed_func(graph)

    assert worst_error(compiled_step(backend=aot_autograd(fw_compiler=collect)), compiled_step()) < 1e-5
    assert {"cos", "sin", "cat"} <= names
    assert not names & MOVES


@pytest.mark.slow
def test_the_compiled_kernels_equal_eager():
    assert worst_error(compiled_step(backend="inductor"), compiled_step()) < 1e-5


def test_the_definition_runs_where_it_is_asked_for(monkeypatch):
    bank, field = bank_of(dtype=torch.float32), field_of(dtype=torch.float32)
    fast, definition = integrate(*bank, field, RINGS, 4, 0.5), integrate_reference(*bank, field, RINGS, 4, 0.5)
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    assert torch.equal(integrate(*bank, field, RINGS, 4, 0.5), definition)
    assert not torch.equal(fast, definition), "both forms round alike: this test sees nothing"
