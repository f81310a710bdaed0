"""Parquet files: the same documents, conversations and pairs as the same records in jsonl, read a piece at a time."""

import json
import tracemalloc

import pytest

from positronic.data import Document, heldout_documents, open_chats, open_pairs, open_source, text_mixture
from positronic.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

STORIES = [{"id": i, "text": f"Story {i}: it was number {i}.\n", "score": i / 7} for i in range(600)]


def jsonl(put, name, records):
    return put(name, "".join(json.dumps(record) + "\n" for record in records))


def test_a_table_holds_the_documents_of_its_text_column(table, tmp_path):
    path = table("d/b.parquet", [{"text": "one", "body": "eins"}, {"text": "two", "body": " "}])
    table("d/a/z.parquet", [{"text": "zero", "body": "null"}])
    assert list(open_source(path)) == [Document("one", "b.parquet:1"), Document("two", "b.parquet:2")]
    assert [d.text for d in open_source(f"{path}#body")] == ["eins"]
    assert [d.text for d in open_source(f"{path}#text+body")] == ["one\n\neins", "two\n\n "]
    assert [d.text for d in open_source(tmp_path / "d")] == ["zero", "one", "two"]


@pytest.mark.parametrize("how", [{}, {"row_group_size": 7}, {"compression": "zstd", "use_dictionary": False}])
def test_the_tokens_are_those_of_the_same_records_in_jsonl(table, put, tokenizer, tmp_path, how):
    paths = [table("s.parquet", STORIES, **how), jsonl(put, "s.jsonl", STORIES)]
    mixtures = [text_mixture([str(path)], tokenizer, seq_len=16, cache=tmp_path / "c") for path in paths]
    assert len({mixture.sources[0].shard.fingerprint for mixture in mixtures}) == 1
    assert heldout_documents([str(paths[0])])[0].text == heldout_documents([str(paths[1])])[0].text


def test_memory_holds_a_batch_and_not_the_file(tmp_path):
    path, group = tmp_path / "long.parquet", pyarrow.table({"text": ["word " * 2000] * 300})
    with parquet.ParquetWriter(path, group.schema) as file:
        for _ in range(20):
            file.write_table(group)
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    held, n_bytes = 0, 0
    for document in open_source(path):
        n_bytes += len(document.text)
        held = max(held, pyarrow.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert n_bytes == 60_000_000
    assert held < 15_000_000


MESSAGES = [
    {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!", "think": "Hm."}]}
    for i in range(3)
]
CALL = {"name": "find", "arguments": {"city": "X"}}
TOOLS = [
    {
        "messages": [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "here"},
            {"role": "assistant", "content": "Here."},
        ]
    },
    {"messages": [{"role": "system", "content": "Be."}, *MESSAGES[0]["messages"]]},
]
SHARED = [{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": None}]
ALPACA = [{"instruction": "I", "input": i, "output": "O"} for i in ("", None, "X")]
MATHS = [{"problem": "1+1", "solution": "It is 2.", "answer": "2", "level": 1}]
THOUGHT = [{"prompt": "Q", "response": "<think>\nWell.\n</think>\n\nA"}, {"prompt": "Q", "response": "<think> B"}]


@pytest.mark.parametrize("records", [MESSAGES, TOOLS, SHARED, ALPACA, MATHS, THOUGHT])
def test_rows_are_the_conversations_of_the_same_records_in_jsonl(table, put, records):
    of_table = [list(c.messages) for c in open_chats(table("c.parquet", records))]
    assert of_table == [list(c.messages) for c in open_chats(jsonl(put, "c.jsonl", records))]
    assert len(of_table) == len(records)


def test_what_is_null_is_absent_and_thoughts_are_kept_apart(table):
    shapes = [{**MATHS[0], **SHARED[0]}, {**MATHS[0], "conversations": None}]
    assert [c.messages[-1].content for c in open_chats(table("c.parquet", shapes))] == ["A", "It is 2."]
    first, second = (c.messages[-1] for c in open_chats(table("t.parquet", THOUGHT)))
    assert (first.think, first.content) == ("Well.", "A")
    assert (second.think, second.content) == (None, "<think> B")


@pytest.mark.parametrize("with_prompt", [False, True])
def test_rows_are_pairs_also_where_the_prompt_stands_beside_whole_conversations(table, with_prompt):
    sides = {side: [{"role": "user", "content": "Q"}, {"role": "assistant", "content": side}] for side in SIDES}
    record = {**sides, "prompt": "Q", "score_chosen": 8.5} if with_prompt else sides
    (pair,) = open_pairs(table("p.parquet", [record]))
    assert [m.content for m in pair.chosen] == ["Q", "chosen"]
    assert [m.content for m in pair.rejected] == ["Q", "rejected"]


SIDES = ("chosen", "rejected")


def test_a_column_that_is_missing_is_answered_with_those_there(table):
    path = table("a.parquet", STORIES)
    with pytest.raises(DataError, match=r"a.parquet has no field 'body'; its fields are id, text, score. Choose one"):
        list(open_source(f"{path}#body"))
    with pytest.raises(DataError, match=r"a.parquet:1 has a number where text should be"):
        list(open_source(f"{path}#score"))
    with pytest.raises(DataError, match=r"a.parquet:1 is no conversation.*its fields are id, text, score"):
        list(open_chats(path))
    with pytest.raises(DataError, match=r"a.parquet:1 is no pair of answers.*its fields are id, text, score"):
        list(open_pairs(path))


def test_a_file_that_is_empty_cut_or_broken_inside_is_named(table):
    path = table("a.parquet", [{"text": ""}])
    with pytest.raises(DataError, match=r"a.parquet is empty"):
        list(open_source(path))
    path = table("a.parquet", STORIES, row_group_size=100, write_page_checksum=True, use_dictionary=False)
    stored = path.read_bytes()
    path.write_bytes(stored[:-50])
    with pytest.raises(DataError, match=r"a.parquet is no whole parquet file \(.*\). Fetch or write it again"):
        list(open_source(path))
    middle = len(stored) // 2
    path.write_bytes(stored[:middle] + bytes(b ^ 0xFF for b in stored[middle : middle + 40]) + stored[middle + 40 :])
    with pytest.raises(DataError, match=r"a.parquet is no whole parquet file behind row \d+ \(.*checksum"):
        list(open_source(path))
