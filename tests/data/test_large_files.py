"""Files that hold far more than they weigh: what is not needed is not unpacked, and what must be whole has a bound."""

import gzip
import json
import lzma

import pytest
from peak_memory import read

from positronic.data import open_source
from positronic.data.sources.documents import TextFiles

zstandard = pytest.importorskip("zstandard")
MIB = 1 << 20
OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstandard.open}


@pytest.fixture(scope="module")
def unpacking_to(tmp_path_factory):
    """unpacking_to(megabytes, name, part, begin, end): a small file that holds so much of `part`; made once."""
    made = {}

    def write(megabytes, name, part=b"\0", begin=b"", end=b""):
        if (key := (megabytes, name, part)) not in made:
            made[key] = tmp_path_factory.mktemp("packed") / name
            block = part * (MIB // len(part))
            with OPENERS[made[key].suffix](made[key], "wb") as file:
                file.write(begin)
                for _ in range(megabytes):
                    file.write(block)
                file.write(end)
        return made[key]

    return write


PARAGRAPH = "One of many. " * 40
STORY = b"Once upon a time there was a bank of rings.\n"


@pytest.mark.parametrize("name", ["a.txt.zst", "a.txt.gz", "a.txt.xz"])
@pytest.mark.parametrize("part", [b"\0", STORY])
def test_an_excerpt_of_a_file_of_gigabytes_reads_its_beginning(unpacking_to, name, part):
    path = unpacking_to(3072 if name.endswith("zst") else 256, name, part)
    assert path.stat().st_size < 2 * MIB
    found, megabytes = read(path, 500)
    assert found.isdecimal()
    assert 400 < int(found) <= 500
    assert megabytes < 500


@pytest.mark.parametrize(
    ("name", "part", "begin"),
    [
        ("a.jsonl.zst", json.dumps({"text": PARAGRAPH}).encode() + b"\n", b""),
        ("a.json.zst", json.dumps(PARAGRAPH).encode() + b",", b"["),
    ],
)
def test_an_excerpt_of_many_records_reads_the_first_of_them(unpacking_to, name, part, begin):
    found, megabytes = read(unpacking_to(1024, name, part, begin), 500)
    assert found.isdecimal()
    assert 400 < int(found) <= 500
    assert megabytes < 300


@pytest.mark.parametrize(
    ("name", "begin", "sentence"),
    [
        ("line.jsonl.zst", b'{"text": "', "line.jsonl.zst:1 is a line of more than 128 MiB. Part it into lines."),
        ("value.json.zst", b'{"text": "', "value.json.zst holds a value of more than 128 MiB"),
        ("list.json.zst", b'[["', "list.json.zst holds a value of more than 128 MiB"),
    ],
)
@pytest.mark.parametrize("budget", [500, None])
def test_a_record_that_is_longer_than_memory_should_hold_is_refused(unpacking_to, name, begin, sentence, budget):
    found, megabytes = read(unpacking_to(1024, name, b"x", begin), budget)
    assert sentence in found
    assert megabytes < 700


def test_a_document_that_is_longer_than_memory_should_hold_is_refused(put, monkeypatch):
    monkeypatch.setattr("positronic.data.sources.documents.DOCUMENT", 3 * MIB)
    for name in ("a.txt", "a.md.zst", "b.txt.xz"):
        path = put(name, "x" * (2 * MIB) + "<|endoftext|>" + "y" * (5 * MIB))
        documents = iter(open_source(path))
        assert next(documents).text == "x" * (2 * MIB)
        with pytest.raises(
            Exception, match=rf"{name} holds a document of more than 3,145,728 characters. Part it.*<\|endoftext\|>"
        ):
            next(documents)


def test_the_first_characters_of_a_file_are_the_documents_that_lie_in_them(put, tmp_path):
    put("d/a.txt", "one two three")
    put("d/b.txt", "one<|endoftext|>two<|endoftext|>three")
    put("d/c.jsonl", "".join(json.dumps(text) + "\n" for text in ("one", "two", "three")))
    source = open_source(tmp_path / "d")
    assert isinstance(source, TextFiles)
    assert [d.text for d in source.first(3)] == ["one"] * 3
    assert [d.text for d in source.first(18)] == ["one two three", "one", "tw", "one", "two", "three"]
    assert list(source.first(10**6)) == list(source)
