"""What is shown is what the model computed."""

import numpy as np
import pytest

from positronic_course import CourseError
from positronic_course.ch07_loss import ModelConfig, attentions, forward
from positronic_course.ch08_initialisation import initialise
from positronic_course.ch12_looking import as_text, attention_of, picture, reach, spread

CONFIG = ModelConfig(vocab_size=40, d_model=16, n_heads=2, n_layers=2, d_hidden=24, context=24)
PARAMETERS = {
    n: w * 60 if n.startswith("blocks") and w.ndim == 2 else w for n, w in initialise(CONFIG, 1, float).items()
}
IDS = np.random.default_rng(0).integers(0, 40, 20)


def by_hand(ids):
    """The weights of the first layer, number by number from the parameters: norm, turn, products, softmax."""
    p, K = PARAMETERS, CONFIG.d_model // CONFIG.n_heads
    x = p["embedding"][ids]
    x = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6) * p["blocks.0.attention_norm.gain"]
    result = np.zeros((CONFIG.n_heads, len(ids), len(ids)))
    for h in range(CONFIG.n_heads):
        columns = slice(h * K, (h + 1) * K)
        q, k = (x @ p[f"blocks.0.attention.{name}"][:, columns] for name in ("query", "key"))
        for t in range(len(ids)):
            scores = []
            for s in range(t + 1):
                pairs = [complex(q[t, i], q[t, i + K // 2]) for i in range(K // 2)]
                others = [complex(k[s, i], k[s, i + K // 2]) for i in range(K // 2)]
                turns = [np.exp(1j * (s - t) * 10000.0 ** (-2 * i / K)) for i in range(K // 2)]
                scores.append(sum((a.conjugate() * b * c).real for a, b, c in zip(pairs, others, turns, strict=True)))
            e = np.exp(np.array(scores) / K**0.5)
            result[h, t, : t + 1] = e / e.sum()
    return result


def test_the_weights_are_those_that_the_equations_give():
    assert np.abs(attention_of(PARAMETERS, CONFIG, IDS)[0] - by_hand(IDS)).max() < 1e-12


def test_the_weights_are_the_bits_that_the_forward_pass_multiplied_values_with():
    _, saved = forward(PARAMETERS, IDS[None], CONFIG)
    shown = attention_of(PARAMETERS, CONFIG, IDS)
    assert len(shown) == CONFIG.n_layers
    for p, of_layer in zip(shown, attentions(saved), strict=True):
        _, _, values, weights = of_layer[4]
        assert np.array_equal(p, weights[0])
        heads = (p @ values[0]).swapaxes(0, 1).reshape(len(IDS), -1)
        assert np.allclose(heads, of_layer[5][0][0], rtol=1e-12)  # what `out` was given


def test_rows_sum_to_one_and_the_future_has_no_weight():
    for p in attention_of(PARAMETERS, CONFIG, IDS):
        assert p.shape == (2, 20, 20)
        assert np.abs(p.sum(axis=-1) - 1).max() < 1e-12
        assert np.all(np.triu(p, 1) == 0)
        assert p.std() > 0.05  # not merely uniform


def test_reach_and_spread_of_heads_known_by_hand():
    T = 9
    itself, before = np.eye(T), np.eye(T, k=-1)
    before[0, 0] = 1
    equal = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    heads = np.stack([itself, before, equal])
    assert reach(heads) == pytest.approx([0, (T - 1) / T, (T - 1) / 4])
    geometric_mean_of_1_to_9 = np.exp(np.log(np.arange(1, T + 1)).mean())
    assert spread(heads) == pytest.approx([1, 1, geometric_mean_of_1_to_9])


def test_the_terminal_shows_the_most_read_token_of_every_row():
    p = attention_of(PARAMETERS, CONFIG, IDS)[1][0]
    lines = as_text(p, [chr(ord("a") + t) for t in range(20)]).splitlines()
    assert len(lines) == 20
    for t, line in enumerate(lines):
        best = p[t].argmax()
        assert line.startswith(f"{chr(ord('a') + t)} |")
        assert line[3 + best] == "@"
        assert line.endswith(f"| {chr(ord('a') + best)} ({t - best} back, {p[t].max():.2f})")
        assert set(line[3 + t + 1 : 3 + 20]) <= {" "}


def test_the_picture_is_drawn_from_the_weights_themselves(tmp_path, monkeypatch):
    axes = pytest.importorskip("matplotlib.axes")
    drawn = []
    imshow = axes.Axes.imshow
    monkeypatch.setattr(axes.Axes, "imshow", lambda self, p, **how: drawn.append(p) or imshow(self, p, **how))
    p = attention_of(PARAMETERS, CONFIG, IDS)[0]
    picture({f"head {h}": p[h] for h in range(2)}, [str(t) for t in range(20)], tmp_path / "heads.png")
    assert np.array_equal(np.stack(drawn), p)
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("n", [0, 25])
def test_a_text_that_does_not_fit_is_refused(n):
    with pytest.raises(CourseError, match=f"has {n} tokens, the model looks at 1 to 24"):
        attention_of(PARAMETERS, CONFIG, np.zeros(n, dtype=int))
