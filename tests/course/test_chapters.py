"""What each chapter says of its operations, beside their gradients."""

from itertools import pairwise
from math import erf, log

import numpy as np
import pytest

from positronic_course import CourseError
from positronic_course.ch02_embeddings import embed, learned_positions, rotate, rotate_backward, rotation, sinusoidal
from positronic_course.ch03_linear_and_norms import layer_norm, linear, part, prefixed, rms_norm
from positronic_course.ch04_activations import gelu, sigmoid
from positronic_course.ch05_attention import keys_values, merge_heads, multi_head, softmax, split_heads, weights
from positronic_course.ch06_block import BlockConfig
from positronic_course.ch07_loss import POSITIONS, ModelConfig, attentions, cross_entropy, forward, loss_and_gradients
from positronic_course.ch08_initialisation import initialise, is_writer, n_parameters, shapes

SMALL = {"vocab_size": 40, "d_model": 16, "n_heads": 2, "n_layers": 2, "d_hidden": 24, "context": 12}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Embeddings and positions


@pytest.mark.parametrize("ids", [[[0, 4]], [[-1, 0]]])
def test_an_id_outside_the_table_is_refused_with_both_ranges(ids):
    with pytest.raises(CourseError, match="the table has rows 0 to 3"):
        embed(np.array(ids), np.ones((4, 2)))


def test_positions_that_were_not_learnt_are_refused():
    table = np.arange(5.0)[:, None]
    y, _ = learned_positions(np.zeros((1, 2, 1)), table, start=3)
    assert y[0, :, 0].tolist() == [3, 4]
    with pytest.raises(CourseError, match="Positions up to 5 were asked for, and 5 are learnt"):
        learned_positions(np.zeros((1, 3, 1)), table, start=3)


def test_dot_products_of_turned_vectors_see_the_distance_alone(rng):
    q, k = rng.normal(size=(2, 1, 1, 1, 32))

    def score(at_q, at_k):
        q_turned = rotate(q, *rotation(np.array([at_q]), 32, dtype=np.float64))
        return float((q_turned * rotate(k, *rotation(np.array([at_k]), 32, dtype=np.float64))).sum())

    assert score(7, 3) == pytest.approx(score(1007, 1003), rel=1e-9)
    assert score(7, 3) != pytest.approx(score(7, 4), rel=1e-3)


def test_turning_back_undoes_turning_and_keeps_lengths(rng):
    x = rng.normal(size=(2, 3, 5, 8))
    turn = rotation(np.arange(5), 8, dtype=np.float64)
    assert np.allclose(rotate_backward(rotate(x, *turn), *turn), x, atol=1e-12)
    assert np.allclose(np.linalg.norm(rotate(x, *turn), axis=-1), np.linalg.norm(x, axis=-1))


def test_the_sinusoidal_table_is_the_same_wherever_it_is_begun():
    assert (sinusoidal(3, 4, 6) == sinusoidal(0, 7, 6)[3:]).all()
    assert sinusoidal(0, 1, 4).tolist() == [[0, 0, 1, 1]]


# Linear maps, norms, activations


def test_norms_undo_scale_and_layer_norm_undoes_a_shift(rng):
    x, one = rng.normal(size=(3, 4, 32)), np.ones(32)
    assert np.allclose(rms_norm(100 * x, one)[0], rms_norm(x, one)[0], atol=1e-5)
    assert np.allclose(layer_norm(x + 7, one, 0 * one)[0], layer_norm(x, one, 0 * one)[0], atol=1e-9)
    assert not np.allclose(rms_norm(x + 7, one)[0], rms_norm(x, one)[0], atol=0.1)
    assert np.isfinite(rms_norm(0 * x, one)[0]).all()


def test_part_and_prefixed_are_inverse():
    parameters = {"a.x": np.ones(1), "a.y.z": np.ones(2)}
    assert part(parameters | {"ab.x": np.ones(3)}, "a.").keys() == {"x", "y.z"}
    assert prefixed("a.", part(parameters, "a.")).keys() == parameters.keys()


def test_a_bias_is_added_to_every_token():
    y, _ = linear(np.zeros((2, 3, 4)), np.ones((4, 2)), np.array([1.0, 2.0]))
    assert y.shape == (2, 3, 2)
    assert (y == [1.0, 2.0]).all()


def test_the_tanh_form_of_gelu_misses_the_true_one_by_less_than_said():
    x = np.linspace(-8, 8, 4001)
    true = x * (1 + np.array([erf(value / 2**0.5) for value in x])) / 2
    assert 0.0004 < np.abs(gelu(x)[0] - true).max() < 0.0005


@pytest.mark.filterwarnings("error")
def test_sigmoid_never_overflows():
    assert sigmoid(np.array([-1e4, 0.0, 1e4], np.float32)).tolist() == [0.0, 0.5, 1.0]


# Attention


@pytest.mark.filterwarnings("error")
def test_softmax_survives_any_score():
    assert softmax(np.array([1e4, 1e4, -np.inf], np.float32)).tolist() == [0.5, 0.5, 0.0]


def test_splitting_and_merging_heads_is_nothing(rng):
    x = rng.normal(size=(2, 5, 12))
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4)
    assert (heads[1, 2, 4] == x[1, 4, 8:]).all()
    assert (merge_heads(heads) == x).all()


def test_weights_sum_to_one_and_none_lies_in_the_future(rng):
    p = {name: rng.normal(size=(8, 8)) for name in ("query", "key", "value", "out")}
    _, saved = multi_head(rng.normal(size=(2, 6, 8)), p, 2)
    assert np.allclose(weights(saved).sum(-1), 1)
    assert (np.triu(weights(saved), k=1) == 0).all()
    keys, values = keys_values(saved)
    assert keys.shape == values.shape == (2, 2, 6, 4)


# The model


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_future_changes_nothing(positions, rng):
    config = ModelConfig(**SMALL, positions=positions)
    parameters = initialise(config, 1, np.float64)
    ids = rng.integers(0, 40, size=(2, 9))
    other = ids.copy()
    other[:, 5:] = (other[:, 5:] + 1) % 40
    ahead, behind = forward(parameters, ids, config)[0], forward(parameters, other, config)[0]
    assert (ahead[:, :5] == behind[:, :5]).all()
    assert (ahead[:, 5:] != behind[:, 5:]).any(axis=-1).all()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("cuts", [(0, 4, 9), (0, 1, 2, 8, 9)])
def test_tokens_fed_in_pieces_give_the_logits_of_the_whole(positions, cuts, rng):
    config = ModelConfig(**SMALL, positions=positions, norm="layer")
    parameters = initialise(config, 1, np.float64)
    ids = rng.integers(0, 40, size=(2, 9))
    past, pieces = None, []
    for begin, end in pairwise(cuts):
        logits, saved = forward(parameters, ids[:, begin:end], config, past)
        past = [keys_values(attention) for attention in attentions(saved)]
        pieces.append(logits)
    assert np.allclose(np.concatenate(pieces, axis=1), forward(parameters, ids, config)[0], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_a_model_that_knows_nothing_pays_log_w_and_one_that_is_sure_and_right_pays_nothing():
    targets = np.array([[1, 2]])
    assert cross_entropy(np.zeros((1, 2, 50)), targets)[0] == pytest.approx(log(50))
    sure = np.zeros((1, 2, 50), np.float32)
    sure[0, [0, 1], [1, 2]] = 1e4
    assert cross_entropy(sure, targets)[0] == 0
    sure[0, 0, 1] = -1e4
    assert cross_entropy(sure, targets)[0] == pytest.approx((1e4 + log(49)) / 2, rel=1e-6)


def test_tokens_of_weight_zero_do_not_count(rng):
    config = ModelConfig(**SMALL)
    parameters = initialise(config, 2, np.float64)
    ids, targets = rng.integers(0, 40, size=(2, 2, 9))
    short = loss_and_gradients(parameters, ids[:, :6], targets[:, :6], config)
    padded = loss_and_gradients(parameters, ids, targets, config, (np.arange(9) < 6) * np.ones((2, 1)))
    assert padded[0] == pytest.approx(short[0], rel=1e-12)
    for name, gradient in short[1].items():
        assert np.allclose(padded[1][name], gradient, rtol=0, atol=1e-12), name


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(CourseError, match="All weights are 0"):
        cross_entropy(np.zeros((1, 2, 5)), np.zeros((1, 2), int), np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_heads": 3}, "d_model 16 does not split into 3 heads"),
        ({"n_layers": 0}, "n_layers is 0; use 1 or more"),
        ({"d_hidden": -1}, "d_hidden is -1; use 1 or more"),
        ({"norm": "batch"}, "norm is 'batch'; choose one of rms, layer"),
        ({"activation": "step"}, "choose one of relu, gelu, swish"),
        ({"positions": "none"}, "choose one of rotary, learned, sinusoidal"),
        ({"d_model": 6}, "3 columns are odd"),
        ({"d_model": 5, "n_heads": 1, "positions": "sinusoidal"}, "5 columns are odd"),
    ],
)
def test_a_config_that_cannot_be_built_says_what_to_do(changes, says):
    with pytest.raises(CourseError, match=says):
        ModelConfig(**SMALL | changes)


def test_a_models_config_is_a_blocks_config():
    assert isinstance(ModelConfig(vocab_size=5), BlockConfig)


# Initialisation


def test_a_seed_names_one_model_in_both_precisions():
    config = ModelConfig(**SMALL)
    one, again, exact = (initialise(config, 5, dtype) for dtype in (np.float32, np.float32, np.float64))
    for name, shape in shapes(config).items():
        assert one[name].shape == shape
        assert (one[name] == again[name]).all()
        assert (one[name] == exact[name].astype(np.float32)).all()
    assert (initialise(config, 6)["embedding"] != one["embedding"]).any()
    assert n_parameters(one) == 40 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 24 + 2 * 16) + 16


def test_numbers_begin_as_loud_as_the_chapter_says():
    parameters = initialise(ModelConfig(vocab_size=400, n_layers=8, norm="layer", positions="learned"), 0)
    for name, value in parameters.items():
        if name.endswith("gain"):
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert (value == 0).all()
        else:
            assert value.std() == pytest.approx(0.02 / 4 if is_writer(name) else 0.02, rel=0.05)


def test_a_new_model_pays_log_w(rng):
    config = ModelConfig(vocab_size=300, d_model=64, n_heads=2, d_hidden=100)
    ids = rng.integers(0, 300, size=(4, 65))
    loss, _ = loss_and_gradients(initialise(config, 0), ids[:, :-1], ids[:, 1:], config)
    assert loss == pytest.approx(log(300), abs=0.05)
