"""A shard is its source, tokenised once: whole or absent, reused, checked, made in bounded memory."""

import json
import re
from functools import partial

import numpy as np
import pytest

from positronic.data import Counts, Shard, Split, cache_folder, open_source, tokenise
from positronic.data.tokens.encode import pieces
from positronic.data.tokens.npy import NpyWriter
from positronic.errors import DataError
from positronic.text import byte_tokenizer, train_bpe, train_length_max


@pytest.fixture
def source(put):
    return open_source(put("a.jsonl", "".join(json.dumps(t) + "\n" for t in ("One.", "Zwei: ß", "three"))))


def read(shard):
    return [shard.tokens[a:b].tolist() for a, b in zip(shard.documents, shard.documents[1:], strict=False)]


def test_a_shard_holds_each_document_and_its_end(source, tokenizer, tmp_path):
    shard = tokenise(source, tokenizer, cache=tmp_path / "cache")
    assert read(shard) == [[*text.encode(), 256] for text in ("One.", "Zwei: ß", "three")]
    assert shard.tokens.dtype == np.uint16
    assert shard.manifest["bytes"] == sum(len(t.encode()) for t in ("One.", "Zwei: ß", "three"))
    assert shard.mask is None


def test_a_second_run_reuses_the_shard(source, tokenizer, tmp_path):
    first = tokenise(source, tokenizer, cache=tmp_path)
    asked = tokenizer.asked
    again = tokenise(open_source(source.path), tokenizer, cache=tmp_path)
    assert tokenizer.asked == asked
    assert again.folder == first.folder
    assert again.fingerprint == first.fingerprint


def test_other_text_or_another_tokenizer_gets_another_shard(source, tokenizer, tmp_path, put):
    first = tokenise(source, tokenizer, cache=tmp_path)
    assert tokenise(open_source(put("b.txt", "other")), tokenizer, cache=tmp_path).folder != first.folder
    tokenizer.sha256 = "of others"
    assert tokenise(source, tokenizer, cache=tmp_path).folder != first.folder


def test_large_vocabularies_get_wide_tokens(source, tokenizer, tmp_path):
    tokenizer.vocab_size = 100_000
    shard = tokenise(source, tokenizer, cache=tmp_path)
    assert shard.tokens.dtype == np.uint32
    assert read(shard)[0] == [*b"One.", 256]


@pytest.mark.parametrize("name", ["tokens.npy", "documents.npy", "manifest.json"])
def test_every_damage_is_found_and_the_folder_named(source, tokenizer, tmp_path, name):
    shard = tokenise(source, tokenizer, cache=tmp_path)
    path, sentence = shard.folder / name, f"{re.escape(str(shard.folder))} is damaged.*Delete that folder"
    whole = path.read_bytes()
    damages = [whole[:-1], whole[: len(whole) // 2], b"", b"[]", whole[:50] + b"?" + whole[51:]]
    for damage in damages[: None if name != "manifest.json" else -1]:
        path.write_bytes(damage)
        with pytest.raises(DataError, match=sentence):
            tokenise(source, tokenizer, cache=tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=sentence):
        Shard.open(shard.folder, "a")


def test_of_two_writers_the_first_to_finish_wins(source, tokenizer, tmp_path):
    inner = []

    def meanwhile(_):
        if not inner:
            inner.append(None)
            inner[0] = tokenise(source, tokenizer, cache=tmp_path / "cache")

    outer = tokenise(source, tokenizer, cache=tmp_path / "cache", progress=meanwhile)
    assert read(outer) == read(inner[0])
    assert list((tmp_path / "cache").iterdir()) == [outer.folder]


def test_a_source_that_fails_leaves_nothing_behind(put, tokenizer, tmp_path):
    path = put("a.jsonl", '{"text": "good"}\n{"text": \n')
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        tokenise(open_source(path), tokenizer, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_source_that_leaves_nothing_to_train_on_says_so(put, tokenizer, tmp_path):
    held_out = Split(open_source(put("a.txt", "text")), one_in=None).held_out
    with pytest.raises(DataError, match=r"a.txt leaves nothing to train on"):
        tokenise(held_out, tokenizer, cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(source, tokenizer, put):
    with pytest.raises(DataError, match="POSITRONIC_CACHE"):
        tokenise(source, tokenizer, cache=put("file", "x"))


def test_the_cache_is_the_argument_or_the_variable_or_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("POSITRONIC_CACHE", str(tmp_path / "v"))
    assert cache_folder("here").name == "here"
    assert cache_folder() == tmp_path / "v"
    monkeypatch.delenv("POSITRONIC_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "positronic")


def test_progress_counts_up_to_the_whole(source, tokenizer, tmp_path):
    seen = []
    shard = tokenise(source, tokenizer, cache=tmp_path, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == Counts("a.jsonl", 3, shard.manifest["bytes"], len(shard.tokens))


def test_calls_of_the_tokenizer_are_bounded_and_change_nothing(put, tokenizer, tmp_path, monkeypatch):
    text = "some words and others " * 300
    source = open_source(put("a.json", json.dumps([text, "short", text + "more"])))
    whole = read(tokenise(source, tokenizer, cache=tmp_path / "a"))
    sizes = []
    encode_batch = tokenizer.encode_batch
    monkeypatch.setattr("positronic.data.tokens.encode.BATCH", 500)
    monkeypatch.setattr("positronic.data.tokens.encode.pieces", lambda text: pieces(text, 100))
    monkeypatch.setattr(tokenizer, "encode_batch", lambda ts: sizes.append(sum(map(len, ts))) or encode_batch(ts))
    assert read(tokenise(source, tokenizer, cache=tmp_path / "b")) == whole
    assert max(sizes) < 1000


@pytest.mark.parametrize(
    "text", ["", "a", "a b " * 1000, "x" * 1000, "日本" * 500, "one two\nthree. " * 90, "a\n\n" * 90]
)
def test_pieces_join_to_the_text(text):
    parts = pieces(text, 50)
    assert "".join(parts) == text
    assert all(len(part) <= 100 for part in parts)


PROSE = "It was so; (or not?)  Then 3.14 was\nwritten on one line,\r\n\r\nand another -\n\n\tPara two.\n  " * 40


@pytest.mark.parametrize(
    "train", [byte_tokenizer, partial(train_length_max, [PROSE], 400), partial(train_bpe, [PROSE], 400)]
)
@pytest.mark.parametrize("text", [PROSE, PROSE.replace("\n", " ")])
def test_pieces_encode_as_the_whole_does(train, text):
    tokenizer = train()
    parts = tokenizer.encode_batch(pieces(text, 60))
    assert [token for part in parts for token in part] == tokenizer.encode(text)


def test_a_file_written_in_parts_is_what_numpy_reads(tmp_path):
    values = np.arange(1000, dtype=np.int64) ** 3
    with NpyWriter(tmp_path / "a.npy", np.int64) as out:
        for part in np.split(values, [0, 3, 500]):
            out.append(part)
    assert np.array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), values)
    assert np.array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), values)
