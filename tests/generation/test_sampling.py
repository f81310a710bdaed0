"""Every logit operation does what its definition says, in the stated order; draws follow the distribution."""

import numpy as np
import pytest

from positronic.errors import GenerationError
from positronic.generation import GREEDY, SamplingParams

NONE = np.array([], np.int64)


def ordered(x):
    """Ids by logit down, then id up: the definition that `kept` must agree with."""
    return sorted(range(len(x)), key=lambda i: (-x[i], i))


def kept_by_definition(x, sampler):
    ids = [i for i in ordered(x) if x[i] > -np.inf]
    if sampler.top_k:
        ids = ids[: sampler.top_k]
    p = np.exp(x[ids] - x[ids].max())
    p /= p.sum()
    if sampler.top_p < 1:
        n, mass = 0, 0.0
        while n == 0 or mass < sampler.top_p:
            mass += p[n]
            n += 1
        ids, p = ids[:n], p[:n]
    return sorted(i for i, q in zip(ids, p, strict=True) if q >= sampler.min_p * p[0])


@pytest.mark.parametrize("top_k", [0, 1, 7, 300])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-9])
@pytest.mark.parametrize("min_p", [0.0, 0.1, 1.0])
def test_what_is_kept_is_what_the_definition_keeps(top_k, top_p, min_p):
    sampler = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)
    rng = np.random.default_rng(0)
    for spread in (0.0, 0.3, 2.0, 10.0):
        x = np.round(rng.standard_normal(200) * spread, 1)  # rounded: ties at every border
        x[rng.integers(0, 200, 20)] = -np.inf
        assert sampler.kept(x).tolist() == kept_by_definition(x, sampler), spread


def test_operations_come_in_the_stated_order():
    logits = np.array([4.0, 3.0, 2.0, 1.0, -1.0], np.float32)
    sampler = SamplingParams(temperature=0, repetition_penalty=2.0, biases={1: 0.25, 0: 5.0})
    masked = np.array([False, True, True, True, True])
    x = sampler.processed(logits, np.array([1, 1, 4, 0]), masked)
    assert x.tolist() == [-np.inf, 3.0 / 2 + 0.25, 2.0, 1.0, -2.0]  # a mask is final; penalty first, then the bias
    assert sampler.pick(logits, 0, np.array([1, 1, 4, 0]), masked) == 2
    assert logits.tolist() == [4.0, 3.0, 2.0, 1.0, -1.0], "the caller's logits changed"


def test_ties_go_to_the_lowest_id():
    logits = np.zeros(50, np.float32)
    logits[[9, 4, 30]] = 1.0
    assert GREEDY.pick(logits, 0, NONE) == 4
    assert SamplingParams(top_k=2, top_p=1.0).kept(logits.astype(float)).tolist() == [4, 9]
    assert SamplingParams(top_p=1e-6).kept(logits.astype(float)).tolist() == [4]


def test_draws_follow_the_target_distribution():
    """Chi-square of 20,000 draws at p > 0.001, twelve outcomes: below 31.3."""
    logits = np.random.default_rng(1).standard_normal(12).astype(np.float32)
    sampler = SamplingParams(temperature=0.8, top_p=1.0, seed=5)
    p = np.exp(logits / 0.8)
    p /= p.sum()
    counts = np.bincount([sampler.pick(logits, i, NONE) for i in range(20_000)], minlength=12)
    chi2 = ((counts - 20_000 * p) ** 2 / (20_000 * p)).sum()
    assert chi2 < 31.3, chi2


def test_a_temperature_near_zero_is_greedy():
    logits = np.random.default_rng(2).standard_normal(100).astype(np.float32)
    cold = SamplingParams(temperature=1e-4, top_p=1.0)
    assert {cold.pick(logits, i, NONE) for i in range(50)} == {int(logits.argmax())}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 5.1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.9),
        ("repetition_penalty", 2.1),
        ("seed", -1),
        ("seed", 2**64),
        ("biases", {3: float("inf")}),
        ("biases", {-3: 1.0}),
    ],
)
def test_settings_out_of_range_are_named_with_their_range(field, value):
    with pytest.raises(GenerationError, match=field) as caught:
        SamplingParams(**{field: value})
    assert "use" in str(caught.value)


def test_a_mask_that_leaves_nothing_is_an_error():
    with pytest.raises(GenerationError, match="allows no token"):
        SamplingParams().pick(np.zeros(5, np.float32), 0, NONE, np.zeros(5, bool))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("sampler", [GREEDY, SamplingParams()])
def test_logits_that_are_not_finite_are_an_error(bad, sampler):
    logits = np.zeros(5, np.float32)
    logits[3] = bad
    with pytest.raises(GenerationError, match="not finite"):
        sampler.pick(logits, 0, NONE)


def test_a_bias_outside_the_vocabulary_is_an_error():
    with pytest.raises(GenerationError, match="token 5"):
        SamplingParams(biases={5: 1.0}).pick(np.zeros(5, np.float32), 0, NONE)


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-300, 1e-30, np.nextafter(0, 1)])
@pytest.mark.parametrize(
    "more", [{}, {"top_k": 2}, {"top_p": 1.0}, {"top_p": 1e-320}, {"min_p": 5e-324}, {"min_p": 1.0}]
)
def test_the_smallest_settings_are_their_limits(temperature, more):
    x = np.array([1.0, 3.0, 3.0, -np.inf, 3e38, -3e38], np.float32)
    assert SamplingParams(temperature=temperature, **more).pick(x, 0, NONE) == 4
    tied = {SamplingParams(temperature=temperature, top_p=1.0, seed=seed).pick(x[:3], 0, NONE) for seed in range(40)}
    assert tied == {1, 2}, "noise decides between what is equally likely, at any temperature"


@pytest.mark.parametrize(
    "settings",
    [{"top_p": 1e-320}, {"top_p": np.nextafter(1.0, 0.0)}, {"min_p": 5e-324}, {"min_p": 1.0}, {"temperature": 5.0}],
)
def test_extremes_draw_a_token_that_may_be_drawn(settings):
    x = np.array([1.0, -np.inf, 2.0, 2.0], np.float32)
    drawn = {SamplingParams(seed=seed, **settings).pick(x, 0, NONE) for seed in range(20)}
    assert drawn <= {0, 2, 3}


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "repetition_penalty", "top_k", "seed", "stream"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e308, -1e-310])
def test_numbers_beyond_the_range_are_refused(field, value):
    with pytest.raises(GenerationError, match=field):
        SamplingParams(**{field: value})


@pytest.mark.parametrize("bias", [float("nan"), float("inf"), 1e308, -1e39, 1e31])
def test_a_bias_that_would_overflow_is_refused(bias):
    with pytest.raises(GenerationError, match="biases"):
        SamplingParams(biases={1: bias})


@pytest.mark.parametrize("bias", [1e30, -1e30, 1e-320])
def test_the_largest_biases_decide_and_do_not_overflow(bias):
    x = np.array([1.0, 3e38, 2.0], np.float32)[[0, 2]]
    assert (
        SamplingParams(temperature=0.7, biases={0: bias}).pick(x, 0, NONE) == (0 if bias > 1 else 1) or bias == 1e-320
    )
