"""The fused form on a GPU; without one, on few tokens, under Triton's interpreter, in a process of its own."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
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
from ring_example import BANK, bank_of, draw, field_of, worst_error

from positronic.kernels.kuramoto import RingField, integrate, integrate_mean_field, integrate_reference
from positronic.mixers.kuramoto import KuramotoConfig
from positronic.models import preset
from positronic.nn.init import initialize
from positronic.state import Step
from positronic.train.device import INDUCTOR
from positronic.traits.phase_attention import PhaseAttentionConfig
from positronic.traits.ring_controller import RingControllerConfig

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
kernels = import_module("positronic.kernels.kuramoto.triton")
RINGS, ROWS = (BANK, (3, 17)) if GPU else (BANK[:4], (1, 2))
N, R = sum(RINGS), len(RINGS)


def fused(*given):
    return kernels.integrate_fused(*given, RINGS, 4, 0.5)


def drawn(kind, driven=True, rows=ROWS, dtype=torch.float32, place=DEVICE):
    """Phases, frequencies, currents and a field of the same float32 values in any dtype."""
    bank, field = bank_of(rows, N, driven, torch.float32), field_of(kind, R, rows, torch.float32)
    bank = [None if x is None else x.to(place, dtype).requires_grad_() for x in bank]
    return bank, RingField(*(None if x is None else x.to(place, dtype).requires_grad_() for x in field))


def phases_and_gradients(run, bank, field):
    after = run(*bank, field)
    after.backward(draw(*after.shape, seed=10, dtype=torch.float32).to(after))
    return [after.detach(), *(x.grad for x in (*bank, *field) if x is not None)]


@runs
@pytest.mark.parametrize(("kind", "driven"), [("plain", True), ("gain", False), ("per token", True)])
def test_it_is_as_near_to_the_definition_as_the_mean_field_is_in_float32(kind, driven):
    definition = phases_and_gradients(
        lambda *given: integrate_reference(*given, RINGS, 4, 0.5), *drawn(kind, driven, dtype=torch.float64)
    )
    plain = phases_and_gradients(lambda *given: integrate_mean_field(*given, RINGS, 4, 0.5), *drawn(kind, driven))
    ours = phases_and_gradients(fused, *drawn(kind, driven))
    for i, (x, y, right) in enumerate(zip(ours, plain, definition, strict=True)):
        error, allowed = (worst_error([z.double()], [right]) for z in (x, y))
        assert error < 2e-6 + 4 * allowed, f"tensor {i}: {error}, plain {allowed}"


_cos_sin = import_module("positronic.kernels.kuramoto.triton_kernels")._cos_sin


@triton.jit
def waves(x_ptr, cos_ptr, sin_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    cos, sin = _cos_sin(tl.load(x_ptr + at))
    tl.store(cos_ptr + at, cos)
    tl.store(sin_ptr + at, sin)


@runs
def test_cosine_and_sine_hold_for_phases_of_any_size():
    for largest in (3.2, 100.0, 10_000.0):
        x = torch.linspace(-largest, largest, 1 << 14, device=DEVICE)
        cos, sin = torch.empty_like(x), torch.empty_like(x)
        waves[(1,)](x, cos, sin, len(x))
        error = max((cos - x.double().cos()).abs().max(), (sin - x.double().sin()).abs().max())
        assert error < 3e-7, f"phases up to {largest}"


@runs
@pytest.mark.parametrize("kind", ["plain", "per token"])
def test_equal_calls_give_equal_bits_and_a_token_has_them_alone_too(kind):
    bank, field = drawn(kind)
    once, again = phases_and_gradients(fused, bank, field), phases_and_gradients(fused, *drawn(kind))
    assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))

    def last(x):
        return x[-1:, -1:].detach() if x is not None and x.dim() == 3 else x

    alone = fused(*map(last, bank), RingField(*map(last, field)))
    assert torch.equal(alone, last(once[0]))


@runs
def test_views_and_broadcast_gradients_are_taken_as_they_are():
    joined = draw(*ROWS, 2 * N, dtype=torch.float32, std=2.0).to(DEVICE).requires_grad_()
    field = RingField(*(None if x is None else x.detach() for x in drawn("plain")[1]))
    ours, plain = (
        torch.autograd.grad(run(*joined.split(N, -1), None, field).sum(), joined)[0]
        for run in (fused, lambda *given: integrate_mean_field(*given, RINGS, 4, 0.5))
    )
    assert worst_error([ours], [plain]) < 1e-5


@pytest.mark.skipif(not GPU or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_it_runs_where_the_tensors_are_and_not_where_the_process_stands():
    here, there = (phases_and_gradients(fused, *drawn("plain", place=d)) for d in ("cuda:0", "cuda:1"))
    assert all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(here, there, strict=True))


@runs
def test_no_tokens_are_no_work():
    after, *gradients = phases_and_gradients(fused, *drawn("plain", rows=(2, 0)))
    assert after.shape == (2, 0, N)
    assert not any(x.any() for x in gradients)


@runs
@pytest.mark.parametrize("kind", ["plain", "per token"])
def test_a_compiler_takes_it_for_one_operator_each_way(kind, monkeypatch):
    monkeypatch.delenv("POSITRONIC_KERNELS", raising=False)

    def run(*given):
        return integrate(*given, RINGS, 4, 0.5)

    whole = torch.compile(run, fullgraph=True, dynamic=False, backend="inductor" if GPU else "aot_eager")
    bank, field = drawn(kind)
    assert worst_error(phases_and_gradients(whole, bank, field), phases_and_gradients(run, *drawn(kind))) < 1e-4
    assert sum("positronic.kuramoto" in name for name in named(run, *bank, field)) == 1


@runs
def test_the_operators_keep_what_they_promise_to_compilers():
    n, steps = 2, 4
    theta, still = (draw(n, N, seed=s, dtype=torch.float32).to(DEVICE) for s in (1, 2))
    coupling, clock = (draw(*shape, dtype=torch.float32).to(DEVICE) for shape in ((R, R), (steps, 2)))
    response = draw(1, 3, R, dtype=torch.float32).to(DEVICE)
    given = [x.requires_grad_() for x in (theta, still, coupling, response, clock)]
    torch.library.opcheck(kernels._run, given, test_utils=("test_schema", "test_faketensor"))
    after, sums, mixed = (x.detach() for x in kernels._run(*given))
    back = (after, *(x.detach() for x in given), sums, mixed)
    torch.library.opcheck(kernels._run_back, back, test_utils=("test_schema", "test_faketensor"))


def mixed(form, mixer, x, monkeypatch, compiled=False, autocast=False):
    """The mixer's output and gradients under POSITRONIC_KERNELS, those of the small parameters as one."""
    monkeypatch.setenv("POSITRONIC_KERNELS", form)
    step = Step.of(torch.ones(x.shape[:2], dtype=torch.long, device=x.device))
    if mixer.controller is not None:
        decoder = draw(R, 13, 4, dtype=torch.float32, std=0.3).to(x.device)
        step = replace(step, shared={"ring_controller": decoder})
    x = x.clone().requires_grad_()
    mixer.zero_grad(set_to_none=True)
    forward = torch.compile(mixer, dynamic=False, options=INDUCTOR) if compiled else mixer
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        y = forward(x, step).y
    y.float().square().mean().backward()
    small = [p.grad.flatten() for p in mixer.parameters() if p.dim() < 2 or len(p) == R]
    return [y.detach(), x.grad, torch.cat(small), *(p.grad for p in mixer.parameters() if p.dim() == 2 and len(p) != R)]


def norm_error(ours, theirs):
    return max(float((a - b).float().norm() / b.float().norm()) for a, b in zip(ours, theirs, strict=True))


@runs
def test_a_mixer_with_its_organs_gives_the_same_through_it(monkeypatch):
    config = KuramotoConfig(
        rings=RINGS, controller=RingControllerConfig(), injections=(PhaseAttentionConfig(slots=(1,), dim=16),)
    )
    mixer = config.build(32).to(DEVICE)
    initialize(mixer, 0)
    with torch.no_grad():
        for name, p in mixer.named_parameters():
            if name.endswith(".g"):
                p.fill_(0.5)
    x = draw(1, 3, 32, dtype=torch.float32).to(DEVICE)
    assert norm_error(mixed("", mixer, x, monkeypatch), mixed("reference", mixer, x, monkeypatch)) < 3e-5


@on_gpu
def test_the_bare_mixer_compiled_in_bfloat16_gives_what_the_definition_gives(monkeypatch):
    """Products in bfloat16 round by 2^-9 each, in another order when compiled: a few of them are allowed."""
    bare = replace(preset("positronic-144m").oscillators, phase_seed=None, controller=None, injections=())
    mixer = bare.build(768).to(DEVICE)
    initialize(mixer, 0)
    x = draw(2, 64, 768, dtype=torch.float32).to(DEVICE, torch.bfloat16)
    ours = mixed("", mixer, x, monkeypatch, compiled=True, autocast=True)
    assert norm_error(ours, mixed("reference", mixer, x, monkeypatch, autocast=True)) < 2e-2


@compiles
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_compiled_for_hopper_no_value_changes_its_layout(name):
    """Each change would go through shared memory, and 200 of them took minutes to compile."""
    stages = compiled_for_hopper(getattr(kernels, name), R=4, STEPS=2)
    assert stages["ttgir"].count("convert_layout") == 0


@interprets
def test_the_tests_above_pass_under_the_interpreter():
    passes_under_the_interpreter(__file__)
