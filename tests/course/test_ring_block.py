"""Chapter 13: what rings of oscillators do, and that a block can learn with them. Gradients: test_gradients.py."""

import numpy as np
import pytest

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
    order,
    velocity,
    velocity_by_pairs,
)
from positronic_course.checking import relative_error


def rings(R=3, n=5, tokens=(2, 4), seed=0):
    """Phases, frequencies, coupling without symmetry, lag: float64."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(*tokens, R, n)) * 2,
        rng.normal(size=(*tokens, R, n)),
        rng.normal(size=(R, R)),
        rng.normal(size=R),
    )


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
