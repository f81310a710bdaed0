"""A cache changes nothing but the time; what is cut off is never drawn; what is drawn has the right frequency."""

from itertools import islice

import numpy as np
import pytest

from positronic_course import CourseError
from positronic_course.ch05_attention import softmax
from positronic_course.ch07_loss import ModelConfig, forward
from positronic_course.ch08_initialisation import initialise
from positronic_course.ch11_generation import generate, kept, length, sample, step

P = np.array([0.1, 0.5, 0.05, 0.2, 0.15])
Z = np.log(P)


def model(context=24, dtype=np.float64, **changes):
    config = ModelConfig(vocab_size=40, d_model=16, n_heads=2, n_layers=2, d_hidden=24, context=context, **changes)
    parameters = initialise(config, seed=1, dtype=dtype)
    loud = {name: w * 60 if name.startswith("blocks") and w.ndim == 2 else w for name, w in parameters.items()}
    return loud, config  # not an echo of the last token


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal"])
@pytest.mark.parametrize("cuts", [[1] * 20, [7, 1, 1, 1, 10], [20]])
def test_cached_logits_equal_those_of_the_whole_text(positions, cuts):
    parameters, config = model(positions=positions)
    ids = np.random.default_rng(0).integers(0, 40, 20)
    whole, _ = forward(parameters, ids[None], config)
    cache, parts = [], []
    for cut in np.split(ids, np.cumsum(cuts)[:-1]):
        logits, cache = step(parameters, config, cut, cache)
        parts.append(logits)
    assert length(cache) == 20
    assert np.abs(np.concatenate(parts) - whole[0]).max() < 1e-12


def test_reading_on_leaves_the_old_cache_as_it_was():
    parameters, config = model()
    _, cache = step(parameters, config, np.array([1, 2, 3]), [])
    before = [(k.copy(), v.copy()) for k, v in cache]
    one, _ = step(parameters, config, np.array([4]), cache)
    step(parameters, config, np.array([5]), cache)
    again, _ = step(parameters, config, np.array([4]), cache)
    assert np.array_equal(one, again)
    assert all(
        np.array_equal(a, b) for pair, old in zip(cache, before, strict=True) for a, b in zip(pair, old, strict=True)
    )


def greedy(parameters, config, ids, n):
    return list(generate(parameters, config, ids, n, temperature=0, rng=np.random.default_rng(0)))


def test_temperature_0_takes_the_largest_logit_of_the_whole_text_every_time():
    parameters, config = model()
    text = [3, 1]
    for chosen in greedy(parameters, config, text, 20):
        logits, _ = forward(parameters, np.array(text)[None], config)
        assert chosen == logits[0, -1].argmax()
        text.append(chosen)
    assert len(set(text)) > 3


@pytest.mark.parametrize("context", [1, 2, 7, 8])
def test_beyond_the_context_the_model_begins_again_with_the_latter_half_of_its_window(context):
    parameters, config = model(context)
    text = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    window = text[-context:]
    for chosen in greedy(parameters, config, text, 30):
        logits, _ = forward(parameters, np.array(window)[None], config)
        assert chosen == logits[0, -1].argmax()
        text.append(chosen)
        window = [*window, chosen] if len(window) < context else text[-max(1, context // 2) :]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "order", "p"),
    [
        (1.0, 0, 1.0, [1, 3, 4, 0, 2], [0.5, 0.2, 0.15, 0.1, 0.05]),
        (1.0, 2, 1.0, [1, 3], [5 / 7, 2 / 7]),
        (1.0, 9, 1.0, [1, 3, 4, 0, 2], [0.5, 0.2, 0.15, 0.1, 0.05]),
        (1.0, 0, 0.8, [1, 3, 4], [10 / 17, 4 / 17, 3 / 17]),
        (1.0, 0, 0.01, [1], [1.0]),
        (1.0, 3, 0.6, [1, 3], [5 / 7, 2 / 7]),
        (0.5, 2, 1.0, [1, 3], [25 / 29, 4 / 29]),
    ],
)
def test_what_is_kept_is_what_the_definition_keeps(temperature, top_k, top_p, order, p):
    found = kept(Z, temperature, top_k, top_p)
    assert found[0].tolist() == order
    assert found[1] == pytest.approx(p)


def test_tokens_are_drawn_as_often_as_they_are_probable():
    rng = np.random.default_rng(0)
    n = 20_000
    counts = np.bincount([sample(Z, rng, 0.7, 0, 1.0) for _ in range(n)], minlength=5)
    expected = softmax(Z / 0.7)
    five_standard_deviations = 5 * np.sqrt(expected * (1 - expected) / n)
    assert np.all(np.abs(counts / n - expected) < five_standard_deviations)


@pytest.mark.parametrize("u", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_range_draw_the_first_and_the_last_token(u):
    class Fixed:
        def random(self):
            return u

    assert sample(Z.astype(np.float32), Fixed(), 1.0, 0, 1.0) == (1 if u == 0 else 2)


def test_the_same_seed_writes_the_same_and_another_seed_something_else():
    parameters, config = model(dtype=np.float32)
    one, again, other = (
        list(generate(parameters, config, [1], 30, rng=np.random.default_rng(seed))) for seed in (0, 0, 1)
    )
    assert one == again != other


def test_tokens_come_one_at_a_time():
    parameters, config = model()
    endless = generate(parameters, config, [1], 10**9, rng=np.random.default_rng(0))
    assert len(list(islice(endless, 3))) == 3


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"ids": []}, "prompt is empty"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": -1}, "top-k is -1"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"n": -1}, "-1 tokens"),
    ],
)
def test_what_cannot_be_is_refused(changes, found):
    parameters, config = model()
    asked = {"ids": [1], "n": 1, "rng": np.random.default_rng(0)} | changes
    with pytest.raises(CourseError, match=found):
        list(generate(parameters, config, **asked))
