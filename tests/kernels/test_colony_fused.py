"""The fused colony on a GPU; without one, on few tokens, under Triton's interpreter, in a process of its own."""

from importlib import import_module

import pytest
import torch
from colony_example import DT, edges, error, field_of, tips_of
from fused_example import (
    DEVICE,
    GPU,
    compiled_for_hopper,
    compiles,
    interprets,
    named,
    on_gpu,
    passes_under_the_interpreter,
    runs,
)
from ring_example import draw

from positronic.kernels.colony import ColonyField, grow, grow_factored, grow_reference
from positronic.models import preset
from positronic.nn.init import initialize
from positronic.state import Step
from positronic.train.device import INDUCTOR

pytest.importorskip("triton")
kernels = import_module("positronic.kernels.colony.triton")
ROWS, N, F, STEPS = ((3, 17), 96, 16, 3) if GPU else ((1, 2), 64, 2, 2)


def fused(*given):
    return kernels.grow_fused(*given, STEPS, DT)


def drawn(tips=None, dtype=torch.float32):
    """Tips and a field of the same float32 values in any dtype."""
    tips = tips_of(*ROWS, n=N) if tips is None else tips
    given = (*tips, *field_of(F))
    return [x.float().to(DEVICE, dtype).requires_grad_() for x in given]


def grown_and_gradients(run, p, g, *field):
    grown = run(p, g, ColonyField(*field))
    weights = [draw(*x.shape, seed=20 + i, dtype=torch.float32).to(x) for i, x in enumerate(grown)]
    torch.autograd.backward(grown, weights)
    return [*(x.detach() for x in grown), *(x.grad for x in (p, g, *field))]


@runs
@pytest.mark.parametrize("tips", [None, edges(N)], ids=["many", "edges"])
def test_it_is_as_near_to_the_definition_as_the_factored_form_is_in_float32(tips):
    definition = grown_and_gradients(
        lambda *given: grow_reference(*given, STEPS, DT), *drawn(tips, dtype=torch.float64)
    )
    plain = grown_and_gradients(lambda *given: grow_factored(*given, STEPS, DT), *drawn(tips))
    ours = grown_and_gradients(fused, *drawn(tips))
    for i, (x, y, right) in enumerate(zip(ours, plain, definition, strict=True)):
        ahead, allowed = (error([z.double()], [right]) for z in (x, y))
        assert ahead < 3e-6 + 4 * allowed, f"tensor {i}: {ahead}, plain {allowed}"


@runs
def test_equal_calls_give_equal_bits_and_a_token_has_them_alone_too():
    given = drawn()
    once, again = grown_and_gradients(fused, *given), grown_and_gradients(fused, *drawn())
    assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))
    p, g, *field = (x.detach() for x in given)
    alone = fused(p[-1:, -1:], g[-1:, -1:], ColonyField(*field))
    assert all(torch.equal(x, y[-1:, -1:]) for x, y in zip(alone, once, strict=False))


@runs
def test_views_and_a_gradient_of_one_output_are_taken_as_they_are():
    joined = draw(*ROWS, 2, N, 3, dtype=torch.float32, std=0.5).to(DEVICE).requires_grad_()
    field = ColonyField(*(x.detach() for x in drawn()[2:]))
    ours, plain = (
        torch.autograd.grad(run(*joined.unbind(-3), field).density.sum(), joined)[0]
        for run in (fused, lambda *given: grow_factored(*given, STEPS, DT))
    )
    assert error([ours], [plain]) < 1e-5


@pytest.mark.skipif(not GPU or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_it_runs_where_the_tensors_are_and_not_where_the_process_stands():
    here, there = (
        grown_and_gradients(fused, *(x.detach().to(d).requires_grad_() for x in drawn())) for d in ("cuda:0", "cuda:1")
    )
    assert all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(here, there, strict=True))


@runs
def test_before_the_first_step_no_tip_has_grown():
    """A replay asks for that moment."""
    p, g, *field = (x.detach() for x in drawn())
    ours, right = (form(p, g, ColonyField(*field), 0, DT) for form in (kernels.grow_fused, grow_reference))
    assert error([ours.position, ours.density], [right.position, right.density]) < 1e-5
    assert torch.equal(ours.growth, right.growth)


@runs
def test_no_tokens_are_no_work():
    p, velocity, density, *gradients = grown_and_gradients(fused, *drawn(tips_of(2, 0, n=N)))
    assert p.shape == velocity.shape == (2, 0, N, 3)
    assert density.shape == (2, 0, N)
    assert not any(x.any() for x in gradients)


@runs
def test_a_compiler_takes_it_for_one_operator_each_way(monkeypatch):
    monkeypatch.delenv("POSITRONIC_KERNELS", raising=False)

    def run(p, g, field):
        return grow(p, g, field, STEPS, DT)

    whole = torch.compile(run, fullgraph=True, dynamic=False, backend="inductor" if GPU else "aot_eager")
    given = drawn(one := tips_of(1, n=N))
    assert error(grown_and_gradients(whole, *given), grown_and_gradients(run, *drawn(one))) < 1e-5
    assert sum("positronic.colony" in name for name in named(run, *given[:2], ColonyField(*given[2:]))) == 1


@runs
def test_the_operators_keep_what_they_promise_to_compilers():
    p, g, *field = (x.detach() for x in drawn(tips_of(1, n=N)))
    centres, answers = torch.cat([field[0], field[1][:, None]], -1), torch.stack(field[2:])
    given = [x.requires_grad_() for x in (p, g, centres, answers)]
    torch.library.opcheck(kernels._run, (*given, STEPS, DT), test_utils=("test_schema", "test_faketensor"))
    *grown, masses = (x.detach() for x in kernels._run(*given, STEPS, DT))
    back = (*grown, *(x.detach() for x in given), masses, STEPS, DT)
    torch.library.opcheck(kernels._run_back, back, test_utils=("test_schema", "test_faketensor"))


@on_gpu
def test_the_bare_mixer_compiled_in_bfloat16_gives_what_the_definition_gives(monkeypatch):
    """Products in bfloat16 round by 2^-9 each, in another order when compiled: a few of them are allowed."""
    config = preset("mycel-79m")
    mixer = config.colony.replace(phase_seed=None, stations=None).build(config.d_model).to(DEVICE)
    initialize(mixer, 0)
    x = draw(2, 64, config.d_model, dtype=torch.float32).to(DEVICE, torch.bfloat16)
    step = Step.of(torch.ones(x.shape[:2], dtype=torch.long, device=DEVICE))

    def mixed(form, forward):
        monkeypatch.setenv("POSITRONIC_KERNELS", form)
        mixer.zero_grad(set_to_none=True)
        start = x.clone().requires_grad_()
        with torch.autocast(DEVICE, torch.bfloat16):
            y = forward(start, step).y
        y.float().square().mean().backward()
        return [y.detach(), start.grad, *(p.grad for p in mixer.parameters() if p.dim() == 2)]

    ours = mixed("", torch.compile(mixer, dynamic=False, options=INDUCTOR))
    for a, b in zip(ours, mixed("reference", mixer), strict=True):
        assert (a - b).float().norm() < 2e-2 * b.float().norm()


@compiles
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_compiled_for_hopper_no_value_changes_its_layout_and_no_centre_is_unrolled(name):
    stages = compiled_for_hopper(getattr(kernels, name), F=16, STEPS=1, B=1)
    assert stages["ttgir"].count("convert_layout") == 0
    assert "scf.for" in stages["ttgir"]


@interprets
def test_the_tests_above_pass_under_the_interpreter():
    passes_under_the_interpreter(__file__)
