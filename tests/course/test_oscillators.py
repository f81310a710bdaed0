"""Chapter 13: rings of oscillators, and their adjoint by hand."""

import inspect

import numpy as np
import pytest
import torch

from positronic.kernels.kuramoto import RingField, integrate_reference
from positronic_course import ch13_oscillators
from positronic_course.ch02_embeddings import rotation
from positronic_course.ch03_linear_and_norms import prefixed
from positronic_course.ch06_block import BlockConfig
from positronic_course.ch06_block import block as chapter_6_block
from positronic_course.ch09_optimisers import Adam
from positronic_course.ch13_oscillators import (
    block,
    block_backward,
    initialise_rings,
    integrate,
    integrate_backward,
    order,
    oscillators,
    oscillators_backward,
    velocity,
    velocity_by_pairs,
)
from positronic_course.checking import check_gradients, relative_error

STEPS, DT = 3, 0.4


def rings(R=3, n=5, tokens=(2, 4), seed=0):
    """Phases, frequencies, coupling without symmetry, lag: float64."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(*tokens, R, n)) * 2,
        rng.normal(size=(*tokens, R, n)),
        rng.normal(size=(R, R)),
        rng.normal(size=R),
    )


def weights(D=6, R=2, n=4, dtype=np.float64):
    rng = np.random.default_rng(1)
    shapes = {"bank": (D, 2 * R * n), "coupling": (R, R), "lag": (R,), "out": (2 * R * n, D)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def by_torch(theta, omega, coupling, lag):
    """The main package's definition, pair by pair, with no centre; sizes as the course has them."""
    R, n = theta.shape[-2:]
    field = RingField(coupling, lag, torch.zeros(R).double(), torch.zeros(()).double(), torch.zeros(()).double())
    return integrate_reference(theta.flatten(-2), omega.flatten(-2), None, field, (n,) * R, STEPS, DT).view(theta.shape)


def test_the_mean_field_is_the_sum_over_all_pairs():
    parts = rings()
    assert relative_error(velocity(*parts), velocity_by_pairs(*parts)) < 1e-13


def test_two_oscillators_worked_by_hand():
    # One ring, phases 0 and pi / 2, J = 2: each pulls the other by 2 / 2 sin(pi / 2) = 1, and itself by nothing.
    theta, still = np.array([[0.0, np.pi / 2]]), np.zeros((1, 2))
    assert velocity_by_pairs(theta, still, np.array([[2.0]]), np.zeros(1)) == pytest.approx(np.array([[1.0, -1.0]]))
    # A lag of pi / 2: each pulls itself by sin(0 - pi / 2) = -1, and the others are sin(0) = 0 and sin(-pi) = 0.
    turned = velocity(theta, still, np.array([[2.0]]), np.array([np.pi / 2]))
    assert turned == pytest.approx(np.array([[-1.0, -1.0]]))


def test_phases_equal_the_main_package_s_definition():
    parts = rings()
    ours, _ = integrate(*parts, STEPS, DT)
    theirs = by_torch(*(torch.from_numpy(part) for part in parts))
    assert relative_error(ours, theirs.numpy()) < 1e-13


def test_the_adjoint_equals_autograd():
    parts = rings()
    end, saved = integrate(*parts, STEPS, DT)
    push = np.random.default_rng(2).normal(size=end.shape)
    leaves = [torch.from_numpy(part).requires_grad_() for part in parts]
    by_torch(*leaves).backward(torch.from_numpy(push))
    for name, ours, leaf in zip(
        ("theta", "omega", "coupling", "lag"), integrate_backward(push, saved), leaves, strict=True
    ):
        assert relative_error(ours, leaf.grad.numpy()) < 1e-12, name


def errors_of_oscillators():
    """Of every gradient, against finite differences; through the module, so that a planted mistake is seen."""

    def f(x, **p):
        return ch13_oscillators.oscillators(x, p, STEPS, DT)

    x = np.random.default_rng(3).normal(size=(2, 3, 6))
    return check_gradients(f, lambda dy, saved: ch13_oscillators.oscillators_backward(dy, saved), {"x": x} | weights())


def test_every_gradient_equals_finite_differences():
    errors = errors_of_oscillators()
    assert errors.keys() == {"x", "bank", "coupling", "lag", "out"}
    assert max(errors.values()) < 1e-6, errors


MISTAKES = [
    ("integrate_backward", "-dt * (u * sin)", "dt * (u * sin)"),
    ("integrate_backward", "dPx * Py - dPy * Px", "dPx * Py + dPy * Px"),
    ("integrate_backward", "np.sin(lag) * dPx + np.cos(lag) * dPy", "np.cos(lag) * dPy - np.sin(lag) * dPx"),
    ("integrate_backward", "dGx @ coupling", "dGx @ coupling.T"),
    ("integrate_backward", "domega += dt * u", "domega += u"),
    ("integrate_backward", "u - through_own_pull", "u + through_own_pull"),
    ("integrate_backward", "* sin) / n", "* sin)"),
    ("integrate_backward", "reversed(before)", "before"),
    ("oscillators_backward", "dsin * cos - dcos * sin", "dcos * sin - dsin * cos"),
    ("oscillators_backward", "1 - omega * omega", "1 + omega * omega"),
]
"""Function, a line's part, and what a tired hand might have written."""


@pytest.mark.parametrize(("function", "right", "wrong"), MISTAKES)
def test_a_planted_mistake_is_caught(monkeypatch, function, right, wrong):
    source = inspect.getsource(getattr(ch13_oscillators, function))
    assert source.count(right) == 1, f"{function} no longer says {right!r} once; plant the mistake elsewhere"
    names = dict(vars(ch13_oscillators))
    exec(source.replace(right, wrong), names)
    monkeypatch.setattr(ch13_oscillators, function, names[function])
    assert max(errors_of_oscillators().values()) > 1e-4


def test_the_block_s_gradients_equal_autograd():
    p, rng = weights(), np.random.default_rng(3)
    x, push = rng.normal(size=(2, 3, 6)), rng.normal(size=(2, 3, 6))
    y, saved = oscillators(x, p, STEPS, DT)
    dx, gradients = oscillators_backward(push, saved)

    leaf = {name: torch.from_numpy(value).requires_grad_() for name, value in (p | {"x": x}).items()}
    first, a = (leaf["x"] @ leaf["bank"]).view(2, 3, 2, 2, 4).unbind(2)
    end = by_torch(first, a.tanh(), leaf["coupling"], leaf["lag"]).flatten(-2)
    expected = torch.cat([end.cos(), end.sin()], -1) @ leaf["out"]
    expected.backward(torch.from_numpy(push))
    assert relative_error(y, expected.detach().numpy()) < 1e-13
    for name, ours in (gradients | {"x": dx}).items():
        assert relative_error(ours, leaf[name].grad.numpy()) < 1e-12, name


def test_float32_stays_float32():
    p, x = weights(dtype=np.float32), np.ones((2, 3, 6), np.float32)
    y, saved = oscillators(x, p)
    dx, gradients = oscillators_backward(y, saved)
    assert {value.dtype for value in (y, dx, *gradients.values())} == {np.dtype(np.float32)}


def test_a_common_turn_of_all_phases_passes_through():
    theta, *others = rings()
    straight, turned = integrate(theta, *others)[0], integrate(theta + 0.7, *others)[0]
    assert relative_error(turned, straight + 0.7) < 1e-13


def test_a_ring_that_pulls_itself_falls_into_step():
    theta, omega, _, _ = rings(R=1, n=32)
    end, _ = integrate(theta, 0 * omega, np.array([[2.0]]), np.zeros(1), steps=40, dt=0.2)
    before, after = (np.hypot(*order(phases)) for phases in (theta, end))
    assert (after > 0.99).all(), after
    assert (before < 0.9).all()


def block_parameters(half, D=8, F=12):
    rng = np.random.default_rng(4)
    shapes = {f"attention.{name}": (D, D) for name in ("query", "key", "value", "out")}
    shapes |= {"attention_norm.gain": (D,), "feed_norm.gain": (D,)}
    if half == "feed_forward":
        shapes |= {"feed.up": (D, F), "feed.gate": (D, F), "feed.down": (F, D)}
        return {name: rng.normal(size=shape) / D**0.5 for name, shape in shapes.items()}
    rings = prefixed("feed.", initialise_rings(D, 2, 3, rng, np.float64))
    return {name: rng.normal(size=shape) / D**0.5 for name, shape in shapes.items()} | rings


def test_with_the_old_half_it_is_the_block_of_chapter_6():
    p, x = block_parameters("feed_forward"), np.random.default_rng(5).normal(size=(2, 5, 8))
    turn = rotation(np.arange(5), 4, dtype=np.float64)
    theirs, _ = chapter_6_block(x, p, BlockConfig(d_model=8, n_heads=2, d_hidden=12), turn)
    assert relative_error(block(x, p, 2, turn, "feed_forward")[0], theirs) < 1e-14


def test_every_gradient_of_a_block_with_oscillators_equals_finite_differences():
    p, rng = block_parameters("oscillators"), np.random.default_rng(5)
    x, turn = rng.normal(size=(1, 4, 8)), rotation(np.arange(4), 4, dtype=np.float64)
    errors = check_gradients(lambda x, **p: block(x, p, 2, turn, "oscillators"), block_backward, {"x": x} | p)
    assert errors.keys() == {"x"} | p.keys()
    assert max(errors.values()) < 1e-6, errors


def test_a_block_with_oscillators_learns_what_it_is_shown():
    """One batch: outputs come closer to random ones that the block cannot guess."""
    p, rng = block_parameters("oscillators"), np.random.default_rng(6)
    x, wanted, turn = (
        rng.normal(size=(2, 6, 8)),
        rng.normal(size=(2, 6, 8)),
        rotation(np.arange(6), 4, dtype=np.float64),
    )
    adam, losses = Adam(p), []
    for _ in range(300):
        y, saved = block(x, p, 2, turn, "oscillators")
        losses.append(((y - wanted) ** 2).mean())
        _, gradients = block_backward(2 * (y - wanted) / y.size, saved)
        adam.step(p, gradients, 0.02)
    assert losses[-1] < 0.2 * losses[0], (losses[0], losses[-1])
