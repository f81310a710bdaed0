"""However few or long the conversations or pairs are, a run trains on them, and says where it measures nothing."""

import json
import logging
import re
from itertools import count

import pytest
from train_example import small_config

from positronic.checkpoint import save
from positronic.data import heldout_conversations
from positronic.errors import DataError
from positronic.models import build
from positronic.recipes import RunConfig, fit_to, train_run
from positronic.text import byte_tokenizer
from positronic.train import DPOConfig, SFTConfig, TrainConfig, read_events

ROW = 64
TOKENIZER = byte_tokenizer()
UNMEASURED = r"Nothing is measured during this run.*--valid"


def turn(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def pair(question, chosen="good", rejected="bad"):
    return {"prompt": [{"role": "user", "content": question}], "chosen": chosen, "rejected": rejected}


@pytest.fixture
def write(tmp_path):
    def put(records, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        return str(path)

    return put


@pytest.fixture
def tune(write, tmp_path, caplog):
    """tune(records, ...) runs two steps: the losses that were measured, and what was warned of."""

    def run(records, *, objective=None, seq_len=ROW, valid=None, fill_names=False):
        objective = objective or SFTConfig()
        config, base = small_config(context=ROW), tmp_path / "base"
        if isinstance(objective, DPOConfig):
            save(base, build(fit_to(config, TOKENIZER), 0), TOKENIZER)
        run = RunConfig(
            model=config,
            data=(write(records),),
            valid=() if valid is None else (write(valid, "valid.jsonl"),),
            conversations=isinstance(objective, SFTConfig),
            fill_names=fill_names,
            init=str(base) if isinstance(objective, DPOConfig) else None,
            train=TrainConfig(
                steps=2, batch_tokens=2 * seq_len, seq_len=seq_len, objective=objective, evaluate_every=1
            ),
        )
        out = tmp_path / "run"
        with caplog.at_level(logging.WARNING):
            state = train_run(run, out, tokenizer=TOKENIZER, device="cpu", cache=tmp_path / "cache")
        assert state.counters.step == 2
        events = read_events(out / "metrics.jsonl")
        return [event["loss"] for event in events if event["event"] == "evaluation"], caplog.text

    return run


@pytest.mark.parametrize("n", [1, 2, 50])
def test_equal_conversations_are_trained_on_unmeasured(tune, n):
    losses, said = tune([turn("hello", "hi there")] * n)
    assert losses == []
    assert re.search(UNMEASURED, said)


def test_equal_conversations_are_measured_on_others_where_these_are_given(tune):
    losses, said = tune([turn("hello", "hi there")] * 3, valid=[turn("hello", "hi you")])
    assert len(losses) == 3
    assert not re.search(UNMEASURED, said)


def test_a_conversation_held_out_that_is_longer_than_a_row_measures_nothing_and_stops_nothing(tune, write):
    short = [turn(f"question {i}", f"answer {i}") for i in range(30)]
    for attempt in count():
        records = [*short, turn(f"{attempt} {'word ' * ROW}", "late")]
        (held_out,) = heldout_conversations([write(records)])
        if held_out.messages[-1].content == "late":
            break
    losses, said = tune(records)
    assert losses == []
    assert re.search(UNMEASURED, said)


@pytest.mark.parametrize("seq_len", [ROW // 2, 4 * ROW])
def test_what_is_held_out_is_measured_in_rows_of_the_length_that_is_trained_on(tune, seq_len):
    """Answers begin behind half a context; whether any is measured is a matter of the row's length alone."""
    records = [turn(f"{i} {'word ' * (3 if i % 2 else 2 * ROW // 5)}", "late") for i in range(2)]
    losses, said = tune([*records, turn("a", "b")], seq_len=4 * ROW)
    assert len(losses) == 3
    assert not re.search(UNMEASURED, said)


def test_answers_behind_the_row_ask_for_a_larger_one(tune):
    records = [turn("word " * 100, f"answer {i}") for i in range(10)]
    with pytest.raises(DataError, match=r"all answers of its 9 conversations .* Use a larger --seq-len") as refused:
        tune(records)
    enough = int(re.search(r"needs (\d+)", str(refused.value))[1])
    with pytest.raises(DataError, match="a smaller --seq-len") if False else pytest.raises(DataError):
        tune(records, seq_len=ROW - 1)
    assert enough > 500


def test_conversations_to_measure_on_that_fit_no_row_are_refused_in_words(tune):
    with pytest.raises(DataError, match="valid.jsonl lies within a row of --seq-len 64. Use a larger"):
        tune([turn("hello", "hi")] * 4, valid=[turn("word " * 100, "late")])


@pytest.mark.parametrize("n", [1, 20])
def test_equal_pairs_are_trained_on_unmeasured(tune, n):
    losses, said = tune([pair("q", "x", "y")] * n, objective=DPOConfig())
    assert losses == []
    assert re.search(UNMEASURED, said)


def test_a_pair_held_out_that_fits_no_row_measures_nothing_and_stops_nothing(tune, write):
    losses, said = tune([pair("q"), pair("r", "w " * ROW, "v")], objective=DPOConfig())
    assert losses == [] or not re.search(UNMEASURED, said)


def test_three_pairs_hold_one_out(tune):
    losses, said = tune([pair(f"q{i}") for i in range(3)], objective=DPOConfig())
    assert len(losses) == 3
    assert not re.search(UNMEASURED, said)
