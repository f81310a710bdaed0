"""Chapter 13: rings of oscillators, and their adjoint by hand."""

import numpy as np
import pytest
import torch

from positronic.kernels.kuramoto import RingField, integrate_reference
from positronic_course.ch13_oscillators import (
    integrate,
    integrate_backward,
    order,
    oscillators,
    oscillators_backward,
    velocity,
    velocity_by_pairs,
)

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


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def measured_gradient(loss, at, step=1e-6):
    """Central differences of loss() with respect to the array `at`, one number after the other."""
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        before = at[place]
        at[place] = before + step
        above = loss()
        at[place] = before - step
        gradient[place] = (above - loss()) / (2 * step)
        at[place] = before
    return gradient


def by_torch(theta, omega, coupling, lag):
    """The main package's definition, pair by pair, with no centre; sizes as the course has them."""
    R, n = theta.shape[-2:]
    field = RingField(coupling, lag, torch.zeros(R).double(), torch.zeros(()).double(), torch.zeros(()).double())
    return integrate_reference(theta.flatten(-2), omega.flatten(-2), None, field, (n,) * R, STEPS, DT).view(theta.shape)


def test_the_mean_field_is_the_sum_over_all_pairs():
    parts = rings()
    assert relative(velocity(*parts), velocity_by_pairs(*parts)) < 1e-13


def test_two_oscillators_worked_by_hand():
    # One ring, phases 0 and pi / 2, K = 2: each pulls the other by 2 / 2 sin(pi / 2) = 1, and itself by nothing.
    theta, still = np.array([[0.0, np.pi / 2]]), np.zeros((1, 2))
    assert velocity_by_pairs(theta, still, np.array([[2.0]]), np.zeros(1)) == pytest.approx(np.array([[1.0, -1.0]]))
    # A lag of pi / 2: each pulls itself by sin(0 - pi / 2) = -1, and the others are sin(0) = 0 and sin(-pi) = 0.
    turned = velocity(theta, still, np.array([[2.0]]), np.array([np.pi / 2]))
    assert turned == pytest.approx(np.array([[-1.0, -1.0]]))


def test_phases_equal_the_main_package_s_definition():
    parts = rings()
    ours, _ = integrate(*parts, STEPS, DT)
    theirs = by_torch(*(torch.from_numpy(part) for part in parts))
    assert relative(ours, theirs.numpy()) < 1e-13


def test_the_adjoint_equals_autograd():
    parts = rings()
    end, saved = integrate(*parts, STEPS, DT)
    push = np.random.default_rng(2).normal(size=end.shape)
    leaves = [torch.from_numpy(part).requires_grad_() for part in parts]
    by_torch(*leaves).backward(torch.from_numpy(push))
    for name, ours, leaf in zip(("theta", "omega", "coupling", "lag"), integrate_backward(push, saved), leaves, strict=True):
        assert relative(ours, leaf.grad.numpy()) < 1e-12, name


@pytest.mark.parametrize("name", ["x", "bank", "coupling", "lag", "out"])
def test_the_block_s_gradients_equal_finite_differences(name):
    p, rng = weights(), np.random.default_rng(3)
    x, push = rng.normal(size=(2, 3, 6)), rng.normal(size=(2, 3, 6))
    y, saved = oscillators(x, p, STEPS, DT)
    dx, gradients = oscillators_backward(push, saved)
    derived = (gradients | {"x": dx})[name]
    measured = measured_gradient(lambda: (oscillators(x, p, STEPS, DT)[0] * push).sum(), (p | {"x": x})[name])
    assert derived.shape == measured.shape
    assert relative(derived, measured) < 1e-6


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
    assert relative(y, expected.detach().numpy()) < 1e-13
    for name, ours in (gradients | {"x": dx}).items():
        assert relative(ours, leaf[name].grad.numpy()) < 1e-12, name


def test_float32_stays_float32():
    p, x = weights(dtype=np.float32), np.ones((2, 3, 6), np.float32)
    y, saved = oscillators(x, p)
    dx, gradients = oscillators_backward(y, saved)
    assert {value.dtype for value in (y, dx, *gradients.values())} == {np.dtype(np.float32)}


def test_a_common_turn_of_all_phases_passes_through():
    theta, *others = rings()
    straight, turned = integrate(theta, *others)[0], integrate(theta + 0.7, *others)[0]
    assert relative(turned, straight + 0.7) < 1e-13


def test_a_ring_that_pulls_itself_falls_into_step():
    theta, omega, _, _ = rings(R=1, n=32)
    end, _ = integrate(theta, 0 * omega, np.array([[2.0]]), np.zeros(1), steps=40, dt=0.2)
    before, after = (np.hypot(*order(phases)) for phases in (theta, end))
    assert (after > 0.99).all(), after
    assert (before < 0.9).all()
