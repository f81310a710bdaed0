"""The worked numbers of the chapters, worked again by the chapters' own functions: each must stand in the text."""

import re
from importlib import import_module

import numpy as np
import pytest

from positronic_course import CHAPTERS
from positronic_course.ch01_tokenizers import BYTES, BPETokenizer, learn_merges
from positronic_course.ch02_embeddings import embed, embed_backward, rotate, rotation
from positronic_course.ch03_linear_and_norms import linear, linear_backward, rms_norm, rms_norm_backward
from positronic_course.ch04_activations import gelu, gelu_backward, swish, swish_backward
from positronic_course.ch05_attention import attention, softmax_backward
from positronic_course.ch07_loss import cross_entropy, cross_entropy_backward
from positronic_course.ch09_optimisers import Adam, clip, warm_up_cosine
from positronic_course.ch11_generation import kept, sample
from positronic_course.ch12_looking import reach, spread
from positronic_course.ch13_oscillators import mean_field, order, velocity, velocity_by_pairs
from positronic_course.ch14_hardware import multiply_fixed, quantise, ternarise, to_fixed
from positronic_course.ch15_classification import pool, pool_backward
from positronic_course.ch16_instructions import answer_loss, equal_answers
from positronic_course.ch17_preference import preference, preference_backward
from positronic_course.ch18_low_rank import low_rank, low_rank_backward


def examples(name):
    """The paragraphs that are worked by numbers, each on one line."""
    text = import_module(f"positronic_course.{name}").__doc__
    return [" ".join(part.split()) for part in re.findall(r"^\*By numbers\*.*?(?=\n\n|\Z)", text, re.M | re.S)]


def said(name, number, *values):
    """Each value, rounded as in the text, stands in the worked paragraph of that number."""
    for value in values:
        assert re.search(rf"(?<![\d.]){re.escape(str(value))}(?![\d])", examples(name)[number]), (value, name)


def rounded(values, digits=3):
    return [f"{value:.{digits}f}" for value in np.ravel(values)]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_chapter_is_worked_by_numbers_before_it_derives(name):
    text = import_module(f"positronic_course.{name}").__doc__
    assert examples(name)
    derived = re.search(r"^Backward\b.*\n(?!-)", text, re.M)
    assert derived is None or text.index("*By numbers*") < derived.start()


def test_ch01():
    assert learn_merges("low low lower", 300) == [*BYTES, b"lo", b"low", b" low"]
    assert len(BPETokenizer.learn("low low lower", 259).encode(" lower")) == 3
    for p, bits in (([1 / 2] * 3 + [1 / 8], 1.5), ([1 / 4] * 2, 1.0)):
        assert -np.log2(p).sum() / 4 == bits
        said("ch01_tokenizers", 1, bits)


def test_ch02():
    dx = np.array([[[1.0, 0], [0, 1], [3, 5]]])
    _, saved = embed(np.array([[2, 0, 2]]), np.zeros((4, 2)))
    assert embed_backward(dx, saved).tolist() == [[0, 1], [0, 0], [4, 5], [0, 0]]
    said("ch02_embeddings", 0, "(4, 5)")
    one = np.array([[[[1.0, 0]]]])
    at = {place: rotate(one, *rotation(np.array([place]), 2, dtype=np.float64)).ravel() for place in (1, 3, 10, 12)}
    said("ch02_embeddings", 1, *rounded(at[3]), *rounded(at[1]), *rounded([at[3] @ at[1], at[12] @ at[10]]))


def test_ch03():
    y, saved = linear(np.array([[1.0, 2]]), np.array([[3.0, 4], [5, 6]]))
    dx, dw, _ = linear_backward(np.array([[1.0, -1]]), saved)
    assert (y.tolist(), dx.tolist(), dw.tolist()) == ([[13, 16]], [[-1, -1]], [[1, -1], [2, -2]])
    said("ch03_linear_and_norms", 0, "(13, 16)", "(-1, -1)", "(1, -1)", "(2, -2)")
    h, saved = rms_norm(np.array([[3.0, 4]]), np.ones(2))
    dx, _ = rms_norm_backward(np.array([[1.0, 0]]), saved)
    said("ch03_linear_and_norms", 1, *rounded(h), *rounded(dx), *rounded(np.sqrt(12.5)), *rounded(h[0, 0] / 2))


def test_ch04():
    for f, f_backward in ((swish, swish_backward), (gelu, gelu_backward)):
        y, saved = f(np.array([1.0, -1.0]))
        slope = f_backward(np.ones(2), saved)[0]
        said("ch04_activations", 0, *rounded(y), *rounded(slope))


def test_ch05():
    k = np.eye(2, 4)[None, None]
    o, (*_, p) = attention(np.array([[[[2.0, 0, 0, 0]]]]), k, np.array([[[[10.0], [20]]]]))
    said("ch05_attention", 0, *rounded(p), *rounded(o, 2))
    said("ch05_attention", 1, *rounded(softmax_backward(np.array([1.0, 0]), p[0, 0, 0])))


def test_ch06():
    said("ch06_block", 0, 2 * 3, 10 * 3, 10 * 2)
    said("ch06_block", 1, f"{0.1**4:.4f}", f"{1.1**4:.2f}")


def test_ch07():
    loss, saved = cross_entropy(np.array([[[2.0, 1, 0]]]), np.array([[1]]))
    exponentials = np.exp([2.0, 1])
    said("ch07_loss", 0, *rounded(saved[0]), *rounded(loss), *rounded(cross_entropy_backward(saved)))
    said("ch07_loss", 0, *rounded(exponentials), *rounded(exponentials.sum() + 1))


def test_ch08():
    said("ch08_initialisation", 0, f"{(100 * 0.2**2) ** 10:,.0f}")
    said("ch08_initialisation", 1, 2 * 8)


def test_ch09():
    place = {"w": np.zeros(1)}
    adam = Adam(place)
    for mean in ("0.2", "0.38", "0.542"):
        adam.step(place, {"w": np.full(1, 2.0)}, 0.01)
        assert f"{adam.mean[0]:g}" == mean
        said("ch09_optimisers", 0, mean)
    assert place["w"][0] == pytest.approx(-0.03)  # three steps of exactly the rate
    for step, rate in ((4, "0.5"), (55, "0.55")):
        assert f"{warm_up_cosine(step, 100, 1.0, 10):g}" == rate
        said("ch09_optimisers", 1, rate)
    gradients = {"a": np.array([3.0]), "b": np.array([4.0])}
    said("ch09_optimisers", 2, f"{clip(gradients, 1.0):g}", *(f"{g[0]:.1f}" for g in gradients.values()))


def test_ch10():
    assert (10 // 4, 10 // 4 * 4, 10 % 4) == (2, 8, 2)
    said("ch10_training", 0, f"{1.2 / np.log(2) / 3:.3f}")


def test_ch11():
    z = np.array([2.0, 1, 0])
    for temperature in (1.0, 0.5):
        said("ch11_generation", 0, *rounded(kept(z, temperature, 0, 1.0)[1]))
    order, p = kept(z, 1.0, 0, 0.9)
    assert order.tolist() == [0, 1]
    said("ch11_generation", 0, *rounded(p))

    class Said:
        def random(self):
            return 0.8

    assert sample(z, Said(), 1.0, 0, 0.9) == 1


def test_ch12():
    p = np.zeros((1, 3, 3))
    p[0, 2] = 0.5, 0.3, 0.2
    last = p[:, 2:]
    assert reach(p)[0] * 3 == pytest.approx(1.3)
    said("ch12_looking", 0, "1.3", f"{spread(last)[0]:.2f}")


def test_ch13():
    theta, J, none = np.array([[0, np.pi / 2]]), np.array([[2.0]]), np.zeros(1)
    assert velocity_by_pairs(theta, 0 * theta, J, none) == pytest.approx(np.array([[1.0, -1.0]]))
    assert order(theta) == (pytest.approx(0.5), pytest.approx(0.5))
    assert mean_field(*order(theta), J, none) == (pytest.approx(1), pytest.approx(1))
    assert velocity(theta, 0 * theta, J, none) == pytest.approx(np.array([[1.0, -1.0]]))
    said("ch13_oscillators", 0, "= 1", "= -1")


def test_ch14():
    a, b = to_fixed(np.array([1.5, -2.25]), 8)
    said("ch14_hardware", 0, a, b, f"{a * b:,}", multiply_fixed(a, b, 8), -3.375)
    m, scale = quantise(np.array([[0.5, -1.27, 0.004]]), axis=1)
    assert (m.tolist(), scale.item()) == ([[50, -127, 0]], pytest.approx(0.01))
    said("ch14_hardware", 1, "(50, -127, 0)")
    trits, mean = ternarise(np.array([0.9, -0.2, -1.3, 0.4]))
    said("ch14_hardware", 2, f"{mean:.1f}", "1, 0, -1, 1")
    assert trits.tolist() == [1, 0, -1, 1]


def test_ch15():
    pooled, saved = pool(np.array([[[1.0, 0], [3, 0], [9, 9]]]), np.array([[1.0, 1, 0]]))
    assert pooled.tolist() == [[2, 0]]
    assert pool_backward(np.array([[4.0, 2]]), saved).tolist() == [[[2, 1], [2, 1], [0, 0]]]
    loss, saved = cross_entropy(np.array([[[1.0, -1]]]), np.array([[1]]))
    said("ch15_classification", 1, *rounded(loss), *rounded(saved[0]), *rounded(cross_entropy_backward(saved)))


def with_losses(losses):
    """Logits (B, T, 2) whose first token costs these nats."""
    p = np.exp(-np.array(losses))
    return np.log(np.stack([p, 1 - p], axis=-1))


def test_ch16():
    nothing = np.zeros((1, 4), int)
    assert cross_entropy(with_losses([[5.0, 5, 1, 3]]), nothing, np.array([[0, 0, 1, 1]]))[0] == pytest.approx(2)
    assert cross_entropy(with_losses([[5.0, 5, 1, 3]]), nothing)[0] == pytest.approx(3.5)
    said("ch16_instructions", 0, "2", "3.5")
    logits, weights = with_losses([[4.0, 9, 9], [1, 1, 1]]), np.array([[1.0, 0, 0], [1, 1, 1]])
    assert cross_entropy(logits, np.zeros((2, 3), int), weights)[0] == pytest.approx(1.75)
    assert answer_loss(logits, np.zeros((2, 3), int), weights)[0] == pytest.approx(2.5)
    assert equal_answers(weights).sum(axis=1).tolist() == [1, pytest.approx(1)]
    said("ch16_instructions", 1, "1.75", "2.5")


def test_ch17():
    reference = np.array([-3.0]), np.array([-4.0])
    loss, saved = preference(np.array([-2.0]), np.array([-4.0]), reference, 0.5)
    said("ch17_preference", 0, *rounded(loss), *rounded(np.log(2)))
    said("ch17_preference", 1, *rounded(preference_backward(np.float64(1), saved)))


def test_ch18():
    shrink, grow = np.ones((2, 1)), np.array([[2.0, 0]])
    y, saved = low_rank(np.array([[1.0, 2]]), np.zeros((2, 2)), shrink, grow, 0.5)
    _, dshrink, dgrow = low_rank_backward(np.array([[1.0, 1]]), saved)
    assert (y.tolist(), dshrink.ravel().tolist(), dgrow.tolist()) == ([[3, 0]], [1, 2], [[1.5, 1.5]])
    said("ch18_low_rank", 0, f"{48 * 48:,}", 4 * 96)
    said("ch18_low_rank", 1, "(3, 0)", "(1.5, 1.5)", "(1, 2)")
