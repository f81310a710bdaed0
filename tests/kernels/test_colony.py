from math import exp, sqrt

import pytest
import torch
from colony_example import DT, STEPS, B, F, N, T, edges, error, field_of, tips_of
from forms_example import standing_in
from ring_example import draw
from torch import Tensor

from positronic.kernels.colony import (
    ColonyField,
    bounded,
    grow,
    grow_adjoint,
    grow_factored,
    grow_reference,
    limited,
    nearness,
    sense_reference,
)
from positronic.kernels.colony.reference import KNEE

FORMS = {"definition": grow_reference, "factored": grow_factored, "adjoint": grow_adjoint}
FAST = {name: form for name, form in FORMS.items() if name != "definition"}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.fixture(params=FAST)
def fast(request):
    return FAST[request.param]


def energy(p: Tensor, field: ColonyField) -> Tensor:
    return p.shape[-2] * nearness(p.mT, field.centres, field.width).mean(-1).square().sum()


@pytest.mark.parametrize("rows", [(), (B, T), (1,), (31,), (33,), (70,)])
def test_the_factored_forms_equal_the_triple_sum(fast, rows):
    given, field = tips_of(*rows), field_of()
    assert error(fast(*given, field, STEPS, DT), grow_reference(*given, field, STEPS, DT)) < 1e-12


def test_the_triple_sum_by_hand():
    p, field = tips_of()[0], field_of()
    density, gradient = sense_reference(p, field)
    c, s = field.centres, field.width
    for i in range(N):
        rho, slope = 0.0, torch.zeros(3).double()
        for j in range(N):
            for f in range(F):
                d = c[f] - p[i]
                pair = torch.exp(-((c[f] - p[j]).square().sum() + d.square().sum()) / (2 * s[f] ** 2))
                rho, slope = rho + pair / N, slope + pair / N * d / s[f] ** 2
        assert abs(density[i] - rho) < 1e-13
        assert (gradient[i] - slope).abs().max() < 1e-13


def test_two_steps_by_hand(form):
    """One tip and one centre on a line, inside the knee."""
    field = field_of(1, centres=[[0.5, 0.0, 0.0]], width=[0.4])
    p, growth = torch.tensor([[[0.1, 0.0, 0.0]], [[-0.4, 0.0, 0.0]]], dtype=torch.float64)
    x, g = 0.1, -0.4
    for _ in range(2):
        density = exp(-((0.5 - x) ** 2) / 0.32) ** 2
        g = 0.8 * g - 0.7 * density * (0.5 - x) / 0.16
        velocity = 0.5 * g / sqrt(g * g + 1e-4)
        x += DT * velocity
    grown = form(p, growth, field, 2, DT)
    assert abs(grown.position[0, 0] - x) < 1e-14
    assert abs(grown.growth[0, 0] - velocity) < 1e-14
    assert abs(grown.density[0] - exp(-((0.5 - x) ** 2) / 0.32) ** 2) < 1e-14


def test_tips_may_change_places(form):
    (p, g), field, order = tips_of(B), field_of(), torch.tensor([3, 1, 9, 0, 2, 8, 7, 5, 6, 4])
    grown = form(p, g, field, STEPS, DT)
    shuffled = form(p[:, order], g[:, order], field, STEPS, DT)
    assert error(shuffled, [x[:, order] for x in grown]) < 1e-12


def test_a_turned_colony_grows_as_the_colony_turned(form):
    (p, g), field = tips_of(B), field_of()
    turn = torch.linalg.qr(draw(3, 3, seed=8)).Q
    position, velocity, density = form(p, g, field, STEPS, DT)
    turned = form(p @ turn, g @ turn, field._replace(centres=field.centres @ turn), STEPS, DT)
    assert error(turned, (position @ turn, velocity @ turn, density)) < 1e-12


@pytest.mark.parametrize("std", [0.3, 1.0, 4.0])
def test_tips_stay_inside_the_ball_and_below_their_speed(form, std):
    (p, g), field = tips_of(B, T, std=std), field_of(tropism=3.0)
    for steps in range(5):
        position, velocity, _ = form(p, 20 * g, field, steps, DT)
        farthest = position.norm(dim=-1).max()
        assert farthest < 1 or (std > 2 and farthest < 1 + 1e-15), "tanh rounds to 1 far away"
        assert velocity.norm(dim=-1).max() < field.speed
    assert (p.norm(dim=-1) > KNEE).any()


def test_density_lies_between_nothing_and_all_centres(form):
    for field in (field_of(), field_of(width=[0.1] * F), field_of(width=[50.0] * F)):
        density = form(*tips_of(B, T), field, STEPS, DT).density
        assert density.min() >= 0
        assert density.max() <= F
    assert density.min() > F - 1e-2, "wide centres feel every tip in full"


def test_the_gradient_is_half_the_slope_of_the_energy():
    p, field = tips_of()[0].requires_grad_(), field_of()
    (slope,) = torch.autograd.grad(energy(p, field), p)
    assert (slope - 2 * sense_reference(p, field)[1]).abs().max() < 1e-13
    i, k, h = 4, 1, 1e-6
    ends = []
    for sign in (1, -1):
        moved = p.detach().clone()
        moved[i, k] += sign * h
        ends.append(energy(moved, field))
    assert abs((ends[0] - ends[1]) / (2 * h) - slope[i, k]) < 1e-8


def test_small_steps_against_the_gradient_lower_the_energy():
    """lam 0, trop below 0, no clamp and no speed limit: the colony spreads."""
    p, field, energies = tips_of(std=0.2)[0], field_of(), []
    for _ in range(30):
        energies.append(energy(p, field))
        p = p - 0.05 * sense_reference(p, field)[1]
    change = torch.stack(energies).diff()
    assert change.max() < 0
    assert energies[-1] < 0.9 * energies[0]


def test_without_tropism_tips_walk_straight_on(form):
    (p, g), field = tips_of(B, std=0.1), field_of(tropism=0.0)
    position, velocity, _ = form(p, g, field, STEPS, DT)
    assert torch.cross(velocity, g, dim=-1).abs().max() < 1e-14
    assert (velocity * g).sum(-1).min() > 0
    assert position.norm(dim=-1).max() < KNEE, "the knee bends the lines"
    assert torch.cross(position - p, g, dim=-1).abs().max() < 1e-14
    travelled = (position - p).norm(dim=-1)
    assert 0.3 < travelled.min() <= travelled.max() < STEPS * DT * 0.5


def test_one_centre_in_closed_form(form):
    p, field = tips_of(B, std=0.2)[0], field_of(1)
    kap = torch.exp(-(field.centres - p).square().sum(-1) / (2 * field.width**2))
    density = kap.mean(-1, keepdim=True) * kap
    assert (form(p, p, field, 0, DT).density - density).abs().max() < 1e-13
    gradient = sense_reference(p, field)[1]
    towards = field.centres - p
    assert torch.cross(gradient, towards, dim=-1).abs().max() < 1e-13
    assert (gradient * towards).sum(-1).min() > 0


def test_the_bounding_map_leaves_the_inside_and_is_smooth_at_the_knee():
    inside = tips_of(50, std=0.2)[0].float()
    assert torch.equal(bounded(inside), inside)
    assert torch.equal(bounded(bounded(inside)), bounded(inside))
    at = torch.tensor([0.0, KNEE, 0.0])
    assert torch.equal(bounded(at), at)
    h = 1e-6
    beyond, before = (bounded(at.double() * (1 + sign * h)).norm() for sign in (1, -1))
    assert abs((beyond - before) / (2 * h * KNEE) - 1) < 1e-5
    assert bounded(torch.tensor([0.0, 0.0, 1.2])).norm() < 1
    assert bounded(torch.zeros(3)).abs().max() == 0


def test_a_tip_without_direction_stands_still():
    assert limited(torch.zeros(4, 3), torch.tensor(0.5)).abs().max() == 0


def gradients(run, p, g, field, seed=9):
    given = [x.clone().requires_grad_() for x in (p, g, *field)]
    grown = run(*given[:2], ColonyField(*given[2:]), STEPS, DT)
    sum((x * draw(*x.shape, seed=seed + i).to(x.dtype)).sum() for i, x in enumerate(grown)).backward()
    return [x.grad for x in given]


@pytest.mark.parametrize("rows", [(), (B, T), (33,), (70,)])
def test_gradients_of_everything_equal_those_of_the_definition(fast, rows):
    given, field = tips_of(*rows), field_of()
    assert error(gradients(fast, *given, field), gradients(grow_reference, *given, field)) < 1e-10


def test_at_the_edges_all_forms_and_their_gradients_agree_and_are_finite(fast):
    given, field = edges(), field_of()
    assert error(fast(*given, field, STEPS, DT), grow_reference(*given, field, STEPS, DT)) < 1e-12
    ours, theirs = gradients(fast, *given, field), gradients(grow_reference, *given, field)
    assert all(x.isfinite().all() for x in ours)
    assert error(ours, theirs) < 1e-10


def test_tips_that_are_all_the_same_stay_so(form):
    p, g = (x[:, :1].expand(B, N, 3).contiguous() for x in tips_of(B))
    grown = form(p, g, field_of(), STEPS, DT)
    assert all(((x - x[:, :1]).abs().max() < 1e-14) for x in grown)


def test_the_adjoint_equals_finite_differences():
    given = [x.requires_grad_() for x in (*tips_of(1, 2), *field_of())]
    assert torch.autograd.gradcheck(lambda p, g, *field: grow_adjoint(p, g, ColonyField(*field), STEPS, DT), given)


def test_the_adjoint_takes_broadcast_gradients_and_inputs_without_gradient():
    joined, field = draw(B, T, 2, N, 3, seed=3).requires_grad_(), field_of()
    grads = [
        torch.autograd.grad(run(*joined.unbind(2), field, STEPS, DT).density.sum(), joined)[0]
        for run in (grow_adjoint, grow_reference)
    ]
    assert error(grads[:1], grads[1:]) < 1e-10


def kept(run) -> float:
    """Numbers a token that training keeps, in units of 6 N."""
    storages, (p, g) = {}, (x.requires_grad_() for x in tips_of(40, dtype=torch.float32))
    inside = {x.untyped_storage().data_ptr() for x in (p, g)}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    field = field_of(dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        grown = run(p, g, field, STEPS, DT)
    assert grown.density.requires_grad
    of_positions = sum(nbytes for place, nbytes in storages.items() if place not in inside)
    return of_positions / (2 * p.untyped_storage().nbytes())


def test_training_keeps_positions_and_growth_and_no_differences():
    """The definition keeps [N, N, F], the factored form [3, F, N] of every step."""
    assert kept(grow_adjoint) < 1.2
    assert kept(grow) < 1.2
    assert kept(grow_factored) > 8 * kept(grow)


def test_single_precision_is_kept():
    (p, g), field = tips_of(B, T, dtype=torch.float32), field_of(dtype=torch.float32)
    exact = grow_reference(p.double(), g.double(), field.to(torch.float64), STEPS, DT)
    for run in (grow, *FAST.values()):
        grown = run(p, g, field, STEPS, DT)
        assert all(x.dtype == torch.float32 for x in grown)
        assert max(float((a - b).abs().max()) for a, b in zip(grown, exact, strict=True)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        low = grow(p, g, field, STEPS, DT)
    assert all(torch.equal(a, b) for a, b in zip(low, grow(p, g, field, STEPS, DT), strict=True))


def test_single_precision_gradients_are_kept():
    given, field = tips_of(33), field_of()
    narrow = [x.float() for x in given], field.to(torch.float32)
    ours, theirs = gradients(grow_adjoint, *narrow[0], narrow[1]), gradients(grow_adjoint, *given, field)
    assert error(ours, theirs) < 1e-4


@pytest.mark.parametrize(("tips", "centres"), [(96, 16), (24, 8), (12, 6)])
def test_a_row_has_the_same_bits_alone_as_among_others(tips, centres):
    (p, g), field = tips_of(3, 30, n=tips, dtype=torch.float32), field_of(centres, dtype=torch.float32)
    together = grow(p, g, field, STEPS, DT)
    for b, first, last in ((0, 0, 1), (1, 29, 30), (2, 3, 8), (0, 1, 17)):
        place = (slice(b, b + 1), slice(first, last))
        alone = grow(p[place].clone(), g[place].clone(), field, STEPS, DT)
        assert all(torch.equal(x, y[place]) for x, y in zip(alone, together, strict=True)), (b, first, last)


def test_no_steps_leave_the_tips_where_they_are(form):
    p, g = tips_of(B)
    grown = form(p, g, field_of(), 0, DT)
    assert torch.equal(grown.position, bounded(p))
    assert not grown.growth.any()


def test_a_nearness_is_one_at_the_centre_and_falls_with_distance():
    centres, width = draw(F, 3, seed=1), torch.full((F,), 0.5).double()
    assert (nearness(centres.mT, centres, width).diagonal() == 1).all()
    line = torch.linspace(0, 4, 50)[:, None].double() * torch.tensor([0.6, 0.8, 0.0]).double()
    assert (nearness((centres[:1] + line).mT, centres[:1], width[:1])[0].diff() < 0).all()


def compiled_step(backend: str | None) -> list[Tensor]:
    given = [x.requires_grad_() for x in (*tips_of(B, T, dtype=torch.float32), *field_of(dtype=torch.float32))]

    def step(p, g, *field):
        return grow(p, g, ColonyField(*field), STEPS, DT)

    run = torch.compile(step, fullgraph=True, dynamic=False, backend=backend) if backend else step
    grown = run(*given)
    sum(x.square().sum() for x in grown).backward()
    return [*(x.detach() for x in grown), *(x.grad for x in given)]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_compiled_graph_is_whole_and_equals_eager(backend):
    assert error(compiled_step(backend), compiled_step(None)) < 1e-4


def test_the_definition_runs_where_it_is_asked_for(monkeypatch):
    (p, g), field = tips_of(B, T, dtype=torch.float32), field_of(dtype=torch.float32)
    fast, definition = grow(p, g, field, STEPS, DT), grow_reference(p, g, field, STEPS, DT)
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    asked = grow(p, g, field, STEPS, DT)
    assert all(torch.equal(a, b) for a, b in zip(asked, definition, strict=True))
    assert not torch.equal(fast.density, definition.density), "both forms round alike: this test sees nothing"


@pytest.mark.parametrize(("tips", "fits"), [(24, False), (32, True), (96, True), (160, False)])
def test_triton_grows_only_tips_that_fill_a_warp_up_to_four_times(tips, fits, monkeypatch):
    ran, (p, g) = standing_in(monkeypatch, "colony", "triton"), tips_of(1, n=tips, dtype=torch.float32)
    assert (grow(p, g, field_of(dtype=torch.float32), STEPS, DT) is ran) is fits
