"""However few or long the conversations or pairs are, a run trains on them, and says where it measures nothing."""

import json
import logging
import re
from itertools import count

import pytest
from train_example import small_config

from positronic.checkpoint import save
from positronic.data import ChatSplit, Conversation, open_chats, open_pairs
from positronic.errors import DataError
from positronic.eval import assistant_bits_per_byte, scorable
from positronic.models import build
from positronic.recipes import RunConfig, train_run
from positronic.recipes.run import fit_to
from positronic.text import Message, byte_tokenizer, render
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


def with_the_long_one_held_out(write, opened, short, long):
    """Records of which `long(n)`, for the first n that its hash allows, is the one held out."""
    for n in count():
        records = [*short, long(n)]
        (held_out,) = ChatSplit(opened(write(records))).held_out
        if held_out.name == f"data.jsonl:{len(records)}":
            return records
    raise AssertionError("unreachable: every hash is one of finitely many kinds")


def test_a_conversation_held_out_that_is_longer_than_a_row_measures_nothing_and_stops_nothing(tune, write):
    short = [turn(f"question {i}", f"answer {i}") for i in range(5)]
    losses, said = tune(
        with_the_long_one_held_out(write, open_chats, short, lambda n: turn(f"{n} word " * ROW, "late"))
    )
    assert losses == []
    assert re.search(UNMEASURED, said)


def test_a_conversation_held_out_is_measured_where_a_row_holds_it_and_not_where_the_context_ends(tune):
    losses, said = tune([turn(f"{i} {'word ' * 20}", "late") for i in range(3)], seq_len=4 * ROW)
    assert len(losses) == 3
    assert not re.search(UNMEASURED, said)


def test_what_is_held_out_is_scored_in_rows_of_the_length_that_is_asked_for():
    chat = Conversation((Message("user", "word " * 20), Message("assistant", "late words")), "c")
    model = build(fit_to(small_config(context=ROW), TOKENIZER), 0)
    assert scorable(TOKENIZER, [chat], ROW, at_most=9) == []
    assert scorable(TOKENIZER, [chat] * 20, 4 * ROW, at_most=10) == [chat] * 10
    assert assistant_bits_per_byte(model, TOKENIZER, [chat], seq_len=4 * ROW).bytes == len("late words")
    whole = len(render(TOKENIZER, chat.messages).ids)  # the last two are the end of the turn and a line end
    assert assistant_bits_per_byte(model, TOKENIZER, [chat], seq_len=whole - 5).bytes == len("late words") - 2


def test_answers_behind_the_row_ask_for_a_larger_one(tune):
    records = [turn("word " * 30, f"answer {i}") for i in range(10)]
    with pytest.raises(DataError, match=r"all answers of its 9 conversations .* Use a larger --seq-len") as refused:
        tune(records)
    losses, _ = tune(records, seq_len=int(re.search(r"needs (\d+)", str(refused.value))[1]))
    assert len(losses) == 3


def test_conversations_of_which_nothing_is_to_be_learned_are_refused_in_words(tune):
    silent = {"role": "assistant", "content": "hi", "weight": 0}
    with pytest.raises(DataError, match="in none of its 2 conversations is a word to be learned"):
        tune([{"messages": [{"role": "user", "content": f"{i}"}, silent]} for i in range(3)])


def test_conversations_to_measure_on_that_fit_no_row_are_refused_in_words(tune):
    with pytest.raises(DataError, match=r"valid\.jsonl lies within a row of --seq-len 64\. Use a larger"):
        tune([turn("hello", "hi")] * 4, valid=[turn("word " * 100, "late")])


@pytest.mark.parametrize("n", [1, 20])
def test_equal_pairs_are_trained_on_unmeasured(tune, n):
    losses, said = tune([pair("q", "x", "y")] * n, objective=DPOConfig())
    assert losses == []
    assert re.search(UNMEASURED, said)


def test_a_pair_held_out_that_fits_no_row_measures_nothing_and_stops_nothing(tune, write):
    short = [pair(f"q{i}") for i in range(3)]
    records = with_the_long_one_held_out(write, open_pairs, short, lambda n: pair(f"{n}", "w " * ROW, "v"))
    losses, said = tune(records, objective=DPOConfig())
    assert losses == []
    assert re.search(UNMEASURED, said)


def test_three_pairs_hold_one_out(tune):
    losses, said = tune([pair(f"q{i}") for i in range(3)], objective=DPOConfig())
    assert len(losses) == 3
    assert not re.search(UNMEASURED, said)
