"""Whatever a record holds: it becomes messages that can be tokenised, or one sentence that says where it stands."""

import json
import os
import resource
import time
from random import Random

import pytest
from mutations_of_records import CHATS, HALF, PAIRS, harmed, nested

from positronic.data import open_chats, open_pairs
from positronic.data.chat.conversations import encode_chats
from positronic.data.chat.preferences import encode_pairs
from positronic.errors import DataError
from positronic.text import byte_tokenizer

SEED = int(os.environ.get("POSITRONIC_FUZZ_SEED", "20"))
TOKENIZER = byte_tokenizer()
CPU_S, MEMORY_KB = 20, 1_000_000


def outcome(path, opened, encoded):
    """How many documents a file gives, or the sentence that refuses it."""
    try:
        return len(list(encoded(opened(path), TOKENIZER)))
    except DataError as error:
        return str(error)


def harm_and_read(put, records, opened, encoded, n, seed):
    """(read, refused) of n harmed records."""
    print(f"seed {seed}")
    random = Random(seed)
    read = refused = 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(n):
        record = harmed(random.choice(records), random)
        began = time.process_time()
        said = outcome(put("c.jsonl", "\n" + json.dumps(record) + "\n"), opened, encoded)
        told = f"seed {seed}, record {number}: {str(record)[:500]}"
        assert time.process_time() - began < CPU_S, told
        if isinstance(said, str):
            refused += 1
            assert "c.jsonl:2 is " in said or "c.jsonl is empty" in said, f"{told}: {said}"
            assert "\n" not in said, f"{told}: {said}"
            assert len(said) < 2000, f"{told}: {said}"
            said.encode()
        else:
            read += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEMORY_KB
    return read, refused


KINDS = {"chats": (CHATS, open_chats, encode_chats), "pairs": (PAIRS, open_pairs, encode_pairs)}


@pytest.mark.parametrize("kind", KINDS)
def test_unharmed_records_of_every_shape_are_read(put, kind):
    records, opened, encoded = KINDS[kind]
    for record in records:
        assert outcome(put("c.jsonl", json.dumps(record)), opened, encoded) == 1, record


@pytest.mark.parametrize("kind", KINDS)
def test_a_harmed_record_is_read_or_refused_with_its_place(put, kind):
    read, refused = harm_and_read(put, *KINDS[kind], 150, SEED)
    assert read > 10
    assert refused > 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [SEED + 1, SEED + 2, SEED + 3])
def test_many_harmed_records_are_read_or_refused_with_their_places(put, kind, seed):
    read, refused = harm_and_read(put, *KINDS[kind], 600, seed)
    assert read > 40
    assert refused > 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [101, 500, 900, 100_000])
def test_deep_nesting_anywhere_is_one_sentence(put, kind, depth):
    records, opened, encoded = KINDS[kind]
    deep = nested(depth) if depth < 1000 else None
    text = json.dumps(deep) if depth < 1000 else "[" * depth + "]" * depth
    for record in records:
        for field in record:
            line = json.dumps({**record, field: "HERE"}).replace('"HERE"', text)
            said = outcome(put("c.jsonl", "\n" + line), opened, encoded)
            assert isinstance(said, str), (field, said)
            assert "c.jsonl:2 is " in said
            assert len(said) < 500


@pytest.mark.parametrize("spelled", [False, True])
@pytest.mark.parametrize("depth", [101, 500, 900])
def test_deep_arguments_of_a_call_are_one_sentence(put, depth, spelled):
    deep = {"x": nested(depth)}
    call = {"name": "f", "arguments": json.dumps(deep) if spelled else deep}
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "tool_calls": [call]}]
    said = outcome(put("c.jsonl", json.dumps({"messages": turns})), open_chats, encode_chats)
    assert "c.jsonl:1 is no conversation" in said
    assert "100 deep" in said
    pair = {"chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "x"}]}
    said = outcome(put("c.jsonl", json.dumps(pair)), open_pairs, encode_pairs)
    assert "c.jsonl:1 is no pair" in said
    assert "100 deep" in said


HALVES = {
    "content": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"bad {HALF} end"}]},
    "question": {"conversations": [{"from": "human", "value": HALF}, {"from": "gpt", "value": "x"}]},
    "alpaca": {"instruction": "I", "output": HALF},
    "arguments": {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": HALF}}]}]},
    "key": {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {HALF: 1}}]}]},
    "spelled": {
        "messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": json.dumps({"x": HALF})}]}]
    },
    "tool": {"messages": [{"role": "assistant", "content": "x"}], "tools": [{"name": "f", "d": HALF}]},
    "thought": {"prompt": "P", "response": f"<think>{HALF}</think>x"},
}


@pytest.mark.parametrize("where", HALVES)
def test_half_a_surrogate_pair_is_named_with_its_line(put, where):
    said = outcome(put("c.jsonl", json.dumps(CHATS[0]) + "\n" + json.dumps(HALVES[where])), open_chats, encode_chats)
    assert "c.jsonl:2 is no conversation that can be read" in said
    assert "half a surrogate pair" in said


@pytest.mark.parametrize("side", ["prompt", "chosen", "rejected"])
def test_half_a_surrogate_pair_in_a_pair_is_named_with_its_line(put, side):
    pair = {"prompt": "P", "chosen": "A", "rejected": "B"}
    said = outcome(put("c.jsonl", json.dumps(pair) + "\n" + json.dumps({**pair, side: HALF})), open_pairs, encode_pairs)
    assert "c.jsonl:2 is no pair of answers" in said
    assert "half a surrogate pair" in said


def test_half_a_surrogate_pair_where_nothing_is_read_harms_nothing_and_a_name_of_one_can_be_shown(put):
    assert outcome(put("c.jsonl", json.dumps({**CHATS[8], "id": HALF})), open_chats, encode_chats) == 1
    said = outcome(put("c.jsonl", json.dumps({HALF: 1})), open_chats, encode_chats)
    assert "c.jsonl:1 is no conversation that can be read: its fields are \\ud83d" in said
    by_id = json.dumps({HALF: {"content": 1}, "b": {"content": []}})
    assert "c.json[\\ud83d] is no conversation" in outcome(put("c.json", by_id), open_chats, encode_chats)
