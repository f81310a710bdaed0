"""Pairs of answers: every shape reads as the same two conversations, and rows hold them whole, side by side."""

import json
import re

import pytest

from positronic.data import Mixture, Weighted, heldout_pairs, open_pairs, pair_mixture
from positronic.errors import DataError
from positronic.text import Message, byte_tokenizer

PROMPT, GOOD, BAD = "Which is larger, 2 or 3?", "3.", "2, I think."
SHAPES = {
    "sharegpt": {
        "conversations": [{"from": "human", "value": PROMPT}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "sharegpt with answers as text": {
        "conversations": [{"from": "human", "value": PROMPT}],
        "chosen": GOOD,
        "rejected": BAD,
    },
    "role and content": {
        "conversations": [{"role": "user", "content": PROMPT}],
        "chosen": {"role": "assistant", "content": GOOD},
        "rejected": {"role": "assistant", "content": BAD},
    },
    "instruction": {"instruction": PROMPT, "input": "", "output": "3?", "chosen": GOOD, "rejected": BAD},
    "prompt": {"prompt": PROMPT, "chosen": GOOD, "rejected": BAD},
    "messages": {
        "prompt": [{"role": "user", "content": PROMPT}],
        "chosen": [{"role": "assistant", "content": GOOD}],
        "rejected": [{"role": "assistant", "content": BAD}],
    },
    "messages without a prompt": {
        "chosen": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": GOOD}],
        "rejected": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": BAD}],
    },
    "text after messages": {"prompt": [{"role": "user", "content": PROMPT}], "chosen": GOOD, "rejected": BAD},
    "turns without a prompt": {
        "chosen": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": GOOD}],
        "rejected": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": BAD}],
    },
    "transcript": {
        "chosen": f"\n\nHuman: {PROMPT}\n\nAssistant: {GOOD}",
        "rejected": f"\n\nHuman: {PROMPT}\n\nAssistant: {BAD}",
    },
    "votes": {
        "instruction": PROMPT,
        "input": "",
        "response1": BAD,
        "response2": GOOD,
        "annotator1": 2,
        "annotator2": 1,
        "annotator3": 2,
    },
}


@pytest.fixture
def put(tmp_path):
    def write(*records):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        return path

    return write


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_reads_as_the_same_pair(put, shape):
    (pair,) = open_pairs(put(SHAPES[shape]))
    assert [m.content for m in pair.chosen] == [PROMPT, GOOD]
    assert [m.content for m in pair.rejected] == [PROMPT, BAD]


def test_what_the_assistant_said_before_is_not_learned_from(put):
    before = "\n\nHuman: Hi\n\nAssistant: Hello"
    (pair,) = open_pairs(
        put({"chosen": f"{before}\n\nHuman: A?\n\nAssistant: B", "rejected": f"{before}\n\nHuman: A?\n\nAssistant: C"})
    )
    assert pair.chosen[1] == Message("assistant", "Hello", loss=False)
    assert pair.chosen[-1].loss


def test_the_systems_words_and_tools_stand_before_both_answers(put):
    record = {**SHAPES["prompt"], "system": "S", "tools": [{"name": "f", "default": None}]}
    (pair,) = open_pairs(put(record))
    assert pair.chosen[0] == pair.rejected[0] == Message("system", 'S\n\nTools:\n{"name": "f", "default": null}')


def test_ties_and_equal_answers_teach_nothing(put):
    tie = {**SHAPES["votes"], "annotator1": 0, "annotator2": 1}
    same = {"prompt": PROMPT, "chosen": GOOD, "rejected": GOOD}
    assert len(list(open_pairs(put(tie, same, SHAPES["prompt"])))) == 1


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"prompt": PROMPT, "chosen": GOOD}, "a pair has chosen and rejected"),
        ({"chosen": "no turns", "rejected": "at all"}, "no transcript"),
        (["a"], "no JSON object"),
        ({"prompt": PROMPT, "chosen": None, "rejected": GOOD}, "a pair has chosen and rejected"),
        ({"prompt": PROMPT, "chosen": ["a"], "rejected": ["b"]}, r"'chosen' is \['a'\], and neither text nor turns"),
        ({"prompt": PROMPT, "chosen": 1, "rejected": 0}, "'chosen' is 1, and neither text nor turns"),
        ({"prompt": 5, "chosen": GOOD, "rejected": BAD}, "'prompt' is 5, and neither text nor turns"),
        ({"prompt": ["x"], "chosen": GOOD, "rejected": BAD}, r"'prompt' is \['x'\], and neither"),
        ({"prompt": PROMPT, "chosen": {"text": GOOD}, "rejected": BAD}, "a turn has the fields text"),
        ({"chosen": GOOD, "rejected": [{"role": "user", "content": "x"}]}, f"'chosen' is '{GOOD}', and neither"),
        (
            {"conversations": PROMPT, "chosen": GOOD, "rejected": BAD},
            "'conversations' is .* and neither text nor turns",
        ),
        ({"instruction": PROMPT, "input": [1], "chosen": GOOD, "rejected": BAD}, "'input' is list, and not text"),
        ({"instruction": PROMPT, "chosen": [GOOD], "rejected": BAD}, "'chosen' is list, and not text"),
        (
            {"instruction": PROMPT, "response1": 1, "response2": BAD, "annotator1": 1},
            "'response1' is int, and not text",
        ),
        ({"instruction": PROMPT, "response1": GOOD, "response2": BAD, "annotator1": [1]}, "'annotator1' is .* no vote"),
        (
            {
                "prompt": PROMPT,
                "chosen": [{"role": "user", "content": "A"}],
                "rejected": [{"role": "assistant", "content": "B"}],
            },
            "one of chosen and rejected begins with what was asked",
        ),
        (
            {
                "chosen": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}],
                "rejected": [{"role": "user", "content": "C"}, {"role": "assistant", "content": "B"}],
            },
            "begin with the same message",
        ),
    ],
)
def test_what_is_no_pair_is_named_with_its_line(put, record, says):
    path = put(SHAPES["prompt"], record)
    with pytest.raises(DataError, match=says) as error:
        list(open_pairs(path))
    assert "pairs.jsonl:2" in str(error.value)


def test_a_row_holds_pairs_whole_and_only_answers_count(put, tmp_path):
    records = [{"prompt": f"say {i}", "chosen": f"good {i}", "rejected": f"bad {i} {i}"} for i in range(40)]
    records.append({"prompt": "long", "chosen": "x" * 300, "rejected": "y"})
    tokenizer = byte_tokenizer()
    mixture = pair_mixture([str(put(*records))], tokenizer, seq_len=160, one_in=None, cache=tmp_path / "c")
    batch = mixture.next(mixture.sources[0].n_rows)
    found = []
    for row in range(len(batch)):
        segments, mask = batch.segments[row], batch.loss_mask[row]
        assert int(segments.max()) % 4 in (2, 3)
        for pair in range(0, int(segments.max()) + 1, 4):
            said = [batch.targets[row][mask & (segments == pair + side)].tolist() for side in (0, 2)]
            found.append(tuple(tokenizer.decode(ids) for ids in said))
    assert sorted(found) == sorted((f"good {i}", f"bad {i} {i}") for i in range(40))
    assert mixture.describe()["sources"][0]["dropped"] == 1


def test_both_sides_of_a_split_are_all_pairs(put, tmp_path):
    path = str(put(*({"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(60))))
    rows = [
        made([path], byte_tokenizer(), seq_len=64, one_in=5, cache=tmp_path / "c")
        for made in (pair_mixture, heldout_pairs)
    ]
    sizes = [mixture.sources[0].notes["conversations"] for mixture in rows]
    assert sum(sizes) == 60
    assert 0 < sizes[1] < sizes[0]
    assert isinstance(
        Mixture([Weighted(m.sources[0]) for m in rows], byte_tokenizer()).next(1).segments.max().item(), int
    )


def test_what_cannot_be_held_out_is_none_and_the_pairs_are_trained_on(put, tmp_path):
    def held_out(*records, seq_len=64):
        path = str(put(*records))
        shape = {"seq_len": seq_len, "cache": tmp_path / "c"}
        assert pair_mixture([path], byte_tokenizer(), **shape).sources[0].n_rows > 0
        return heldout_pairs([path], byte_tokenizer(), **shape)

    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert held_out(pair) is None
    assert held_out(*[pair] * 50) is None
    assert held_out(*({**pair, "prompt": f"short {i}"} for i in range(3))).sources[0].n_rows == 1


def test_pairs_longer_than_a_row_ask_for_a_larger_one(put, tmp_path):
    path = str(put(*({"prompt": f"q{i}", "chosen": "w " * 100, "rejected": "v " * 100} for i in range(5))))
    shape = {"one_in": None, "cache": tmp_path / "c"}
    with pytest.raises(DataError, match=r"all answers of its 5 pairs .* --seq-len 64. Use a larger") as refused:
        pair_mixture([path], byte_tokenizer(), seq_len=64, **shape)
    enough = int(re.search(r"needs (\d+)", str(refused.value))[1])
    assert pair_mixture([path], byte_tokenizer(), seq_len=enough, **shape).sources[0].notes["conversations"] == 5
    with pytest.raises(DataError, match="Use a larger --seq-len"):
        pair_mixture([path], byte_tokenizer(), seq_len=enough - 1, **shape)
