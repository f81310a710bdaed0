"""Scores of benchmarks on likelihoods that are known: definitions and standard errors by hand."""

import math

import pytest
from task_example import LINES, put

from positronic.data import Document
from positronic.eval import Likelihood, Score, benchmark, bits_per_byte_stderr, document_scores, open_task
from positronic.eval.benchmarks import summary
from positronic.models import build, preset
from positronic.text import byte_tokenizer


@pytest.fixture
def measure(tmp_path):
    """A task of the given lines, whose candidates have the given ln p, in order."""

    def measured(records, log_p, greedy=False):
        put(tmp_path, "mine.jsonl", *records)
        return summary(open_task("mine", tmp_path), [Likelihood(value, greedy) for value in log_p]).to_json()

    return measured


def test_the_likeliest_choice_counts_and_length_may_be_divided_out(measure):
    """ln p -8 of `aa`, -10 of `bbbb`, -11 of `ééé` (6 bytes): the first, of 3.7 a character, 1.8 a byte."""
    record = {"query": "Q", "choices": ["aa", "bbbb", "ééé"]}
    found = measure([{**record, "gold": gold} for gold in range(3)], [-8, -10, -11] * 3)
    assert [found[name] for name in ("acc", "acc_norm", "acc_bytes")] == pytest.approx([1 / 3] * 3)
    one = [measure([{**record, "gold": gold}], [-8, -10, -11]) for gold in range(3)]
    assert [(m["acc"], m["acc_norm"], m["acc_bytes"]) for m in one] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]


def test_standard_errors_are_those_of_a_mean(measure):
    """3 of 4 right: s^2 = 0.25, so 0.25. Of a single item nothing is known."""
    found = measure([LINES["choices"]] * 4, [-1, -2] * 3 + [-2, -1])
    assert (found["n"], found["acc"], found["acc_stderr"]) == (4, 0.75, pytest.approx(math.sqrt(0.75 * 0.25 / 3)))
    assert measure([LINES["choices"]], [-1, -2])["acc_stderr"] is None


def test_a_pair_is_won_by_the_likelier_good_sentence_and_never_by_a_tie(measure):
    found = [measure([LINES["pairs"]], [bad, good])["acc"] for bad, good in [(-2, -1), (-1, -2), (-1, -1)]]
    assert found == [1, 0, 0]


def test_of_equal_choices_the_first_counts(measure):
    assert measure([LINES["choices"]], [-1, -1])["acc"] == 1


def test_a_completion_is_right_when_greedy_decoding_says_it(measure):
    found = measure([LINES["completion"]] * 3, [-1, -2, -3], greedy=True)
    assert (found["acc"], found["perplexity"]) == (1, pytest.approx(math.e**2))
    assert found["perplexity_stderr"] == pytest.approx(math.e**2 / math.sqrt(3))
    assert measure([LINES["completion"]], [-1])["acc"] == 0


def test_the_whole_is_the_mean_of_its_parts_whatever_their_sizes(tmp_path):
    (tmp_path / "blimp").mkdir()
    put(tmp_path / "blimp", "a.jsonl", *[LINES["pairs"]] * 4)
    put(tmp_path / "blimp", "b.jsonl", *[LINES["pairs"]] * 2)
    won, lost = [Likelihood(-2, False), Likelihood(-1, False)], [Likelihood(-1, False), Likelihood(-2, False)]
    found = summary(open_task("blimp", tmp_path), won * 3 + lost + won + lost).to_json()
    assert {name: part["acc"] for name, part in found["parts"].items()} == {"a": 0.75, "b": 0.5}
    assert (found["n"], found["acc"]) == (6, 0.625)
    errors = [math.sqrt(0.75 * 0.25 / 3), 0.5]
    assert found["acc_stderr"] == pytest.approx(math.hypot(*errors) / 2)


def test_the_error_of_bits_per_byte_is_none_where_all_documents_cost_the_same():
    same = [Score(nats=10 * n, tokens=n, bytes=4 * n) for n in (3, 5, 9)]
    assert bits_per_byte_stderr(same) == pytest.approx(0, abs=1e-9)
    assert bits_per_byte_stderr(same[:1]) is None
    two = [Score(nats=2 * math.log(2), tokens=1, bytes=1), Score(nats=0, tokens=1, bytes=1)]
    assert bits_per_byte_stderr(two) == pytest.approx(1), "1 bit a byte, each a bit off: s / sqrt(2) = 1"


def test_a_whole_task_is_scored_as_the_model_sees_documents(tmp_path):
    """The sentences of a pair cost what they cost as documents."""
    model, tokenizer = build(preset("tinygpt-tiny").replace(vocab_size=384, context=64), 1), byte_tokenizer()
    pair = {"sentence_good": "The dogs bark.", "sentence_bad": "The dog bark all day."}
    put(tmp_path, "one.jsonl", pair)
    texts = [Document(text, "here") for text in pair.values()]
    good, bad = document_scores(model, tokenizer, texts)
    assert good.nats < bad.nats, "a shorter text of a new model is likelier"
    assert benchmark(model, tokenizer, open_task("one", tmp_path)).whole.metrics["acc"].value == 1
