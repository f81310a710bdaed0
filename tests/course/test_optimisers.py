"""Optimisers do what torch's do, for a hundredth of the code."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from positronic_course.ch09_optimisers import Adam, AdamW, clip, warm_up_cosine

SHAPES = {"embedding": (7, 4), "gain": (4,), "up": (4, 9)}


def some(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def theirs(make, parameters, gradients, rates):
    """Parameters after one step of torch's optimiser for each rate."""
    weights = {name: torch.tensor(w).requires_grad_() for name, w in parameters.items()}
    optimiser = make(weights)
    for step, rate in enumerate(rates):
        for name, w in weights.items():
            w.grad = torch.tensor(gradients[step][name])
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    return {name: w.detach().numpy() for name, w in weights.items()}


def worst(a, b):
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


GRADIENTS = [some(100 + step) for step in range(20)]
RATES = [warm_up_cosine(step, 20, 0.05, 4) for step in range(20)]


def test_twenty_steps_of_adam_equal_torchs():
    ours = some(0)
    expected = theirs(lambda w: torch.optim.Adam(w.values(), betas=(0.9, 0.99)), ours, GRADIENTS, RATES)
    adam = Adam(ours)
    for gradients, rate in zip(GRADIENTS, RATES, strict=True):
        adam.step(ours, gradients, rate)
    assert worst(ours, expected) < 1e-12


def test_twenty_steps_of_adamw_equal_torchs_with_decay_on_matrices_alone():
    def make(w):
        groups = [{"params": [w["embedding"], w["up"]]}, {"params": [w["gain"]], "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.3)

    ours = some(0)
    expected = theirs(make, ours, GRADIENTS, RATES)
    adamw = AdamW(ours, decay=0.3)
    for gradients, rate in zip(GRADIENTS, RATES, strict=True):
        adamw.step(ours, gradients, rate)
    assert worst(ours, expected) < 1e-12


def test_large_gradients_do_not_change_the_size_of_a_step():
    one, other = some(0), some(0)
    large = {name: 1000 * g for name, g in GRADIENTS[0].items()}
    Adam(one, epsilon=0.0).step(one, GRADIENTS[0], 0.01)
    Adam(other, epsilon=0.0).step(other, large, 0.01)
    assert worst(one, other) < 1e-12


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_an_optimiser_goes_on_exactly_from_its_arrays(make):
    ours = some(0, np.float32)
    optimiser = make(ours)
    gradients = [some(200 + step, np.float32) for step in range(6)]
    for g in gradients[:3]:
        optimiser.step(ours, g, 0.01)
    copy = {name: w.copy() for name, w in ours.items()}
    other = make(copy)
    other.from_arrays(optimiser.to_arrays())
    for g in gradients[3:]:
        optimiser.step(ours, g, 0.01)
        other.step(copy, g, 0.01)
    assert worst(ours, copy) == 0
    assert {a.dtype for a in [*ours.values(), optimiser.to_arrays()["mean"], optimiser.to_arrays()["square"]]} == {
        np.dtype("f4")
    }


@pytest.mark.parametrize("limit", [0.5, 1e9])
def test_clipping_equals_torchs(limit):
    ours = some(5)
    tensors = [torch.nn.Parameter(torch.tensor(g)) for g in ours.values()]
    for tensor, g in zip(tensors, ours.values(), strict=True):
        tensor.grad = torch.tensor(g)
    expected = torch.nn.utils.clip_grad_norm_(tensors, limit).item()
    assert clip(ours, limit) == pytest.approx(expected, rel=1e-12)
    for tensor, g in zip(tensors, ours.values(), strict=True):
        assert np.allclose(tensor.grad.numpy(), g, rtol=1e-6)
    assert clip(ours, 1e9) == pytest.approx(min(limit, expected), rel=1e-6)


def test_the_rate_climbs_falls_and_rests_at_the_floor():
    rates = [warm_up_cosine(step, 100, 2.0, 10) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(1.1)  # halfway between peak and floor
    assert rates[100] == pytest.approx(0.2)
    assert warm_up_cosine(150, 100, 2.0, 10) == pytest.approx(0.2)
