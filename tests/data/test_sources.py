"""Documents out of files: what is read, in which order, and one clear sentence for what cannot be read."""

import json
import os
import sys
from hashlib import sha256

import pytest

from positronic.data import DataSpec, Document, open_source
from positronic.data.files import chunks, lines, text_chunks
from positronic.errors import DataError


def texts(path):
    return [document.text for document in open_source(path)]


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("text", "path", "field", "weight"),
    [
        ("a.txt", "a.txt", None, None),
        ("a.txt:0.35", "a.txt", None, 0.35),
        ("a.txt:2", "a.txt", None, 2.0),
        ("a.txt:.5", "a.txt", None, 0.5),
        ("C:/x:y/a.txt", "C:/x:y/a.txt", None, None),
        ("C:/x:y/a.txt:1e-3", "C:/x:y/a.txt", None, 0.001),
        ("a:0.5:0.25", "a:0.5", None, 0.25),
        ("a.jsonl#body:0.2", "a.jsonl", "body", 0.2),
        ("a.jsonl.xz#body", "a.jsonl.xz", "body", None),
        ("a.parquet#body:2", "a.parquet", "body", 2.0),
        ("c#.txt:1", "c#.txt", None, 1.0),
        ("c#sharp.txt", "c#sharp.txt", None, None),
    ],
)
def test_a_source_is_written_as_path_field_and_weight(text, path, field, weight):
    spec = DataSpec.parse(text)
    assert (spec.path.as_posix(), spec.field, spec.weight) == (path, field, weight)


@pytest.mark.parametrize("text", ["a.txt:0", "a.txt:-1", "a.txt:1e999"])
def test_a_weight_that_is_no_positive_number_is_refused(text):
    with pytest.raises(DataError, match="positive"):
        DataSpec.parse(text)


def test_a_file_without_marks_is_one_document_untouched(put):
    text = "\n\n First line\r\n\r\nSecond  \n"
    assert texts(put("a.txt", text)) == [text]
    assert texts(put("a.md", text)) == [text]


def test_marks_split_a_file_and_take_their_line_ends_with_them(put):
    content = "One.\nStill one.\n<|endoftext|>\nTwo.\n\n<|endoftext|>\n<|endoftext|>Three"
    assert texts(put("a.txt", content)) == ["One.\nStill one.", "Two.", "Three"]


def test_a_mark_across_two_pieces_of_a_file_is_found(put, monkeypatch):
    monkeypatch.setattr("positronic.data.files.chunks", lambda path: chunks(path, 5))
    path = put("a.txt", "Größe<|endoftext|>zwei<|endoftext|>drei")
    assert texts(path) == ["Größe", "zwei", "drei"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_text_and_lines_do_not_depend_on_how_a_file_is_read(put, monkeypatch, size):
    content = "\ufeffa\n\nKäfer\n日本語\r\nlast"
    path = put("a.txt", content)
    monkeypatch.setattr("positronic.data.files.chunks", lambda path: chunks(path, size))
    assert "".join(text_chunks(path)) == content[1:]
    assert [line for _, line in lines(path)] == ["a", "", "Käfer", "日本語\r", "last"]
    assert [number for number, _ in lines(path)] == [1, 2, 3, 4, 5]


def test_packed_files_hold_the_same_documents_as_plain_ones(put):
    records = jsonl({"text": "a"}, {"text": "b"})
    for name, content in (("a.txt", "x\ny"), ("a.jsonl", records), ("a.json", json.dumps(["p", "q"]))):
        plain = texts(put(name, content))
        assert all(texts(put(name + suffix, content)) == plain for suffix in (".gz", ".xz", ".zst"))


def test_all_frames_of_a_zst_file_are_read(put):
    path = put("a.txt.zst", "one ")
    path.write_bytes(path.read_bytes() + pytest.importorskip("zstandard").compress(b"two"))
    assert texts(path) == ["one two"]
    assert [len(piece) for piece in chunks(path, 3)] == [3, 3, 1]


@pytest.mark.parametrize("name", ["a.txt.zst", "a.parquet"])
def test_a_library_that_is_missing_is_named_with_the_line_that_brings_it(put, monkeypatch, name):
    path = put(name, "x")
    monkeypatch.setitem(sys.modules, {"a.txt.zst": "zstandard", "a.parquet": "pyarrow"}[name], None)
    with pytest.raises(
        DataError, match=rf"Reading .*{name} needs (zstandard|pyarrow): pip install 'positronic\[data\]'"
    ):
        texts(path)


def test_a_text_can_be_joined_of_several_fields_and_of_fields_inside_others(put):
    said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    record = {"problem": "p", "input": "", "note": None, "solution": "s", "messages": said, "at": {"x": {"y": "z"}}}
    path = put("a.jsonl", jsonl(record, {**record, "problem+solution": "by its name"}))
    assert texts(f"{path}#problem+input+note+solution") == ["p\n\ns", "p\n\ns"]
    assert texts(f"{path}#messages.content") == ["Q\n\nA"] * 2
    assert texts(f"{path}#problem+messages.content+at.x.y") == ["p\n\nQ\n\nA\n\nz"] * 2
    assert texts(f"{path}#problem+solution") == ["p\n\ns", "by its name"]
    for field, sentence in (("problem+other", "no field 'other'; its fields are problem"), ("at.y", "has null where")):
        with pytest.raises(DataError, match=sentence):
            texts(f"{path}#{field}")


def test_json_and_jsonl_hold_strings_or_objects_with_a_field(put):
    assert texts(put("a.jsonl", jsonl({"text": "a"}, "b") + "\n  \n" + jsonl({"text": " "}))) == ["a", "b"]
    assert texts(put("a.json", json.dumps([{"text": "a"}, "b"]))) == ["a", "b"]
    path = put("b.jsonl", jsonl({"id": 1, "body": "a"}))
    assert texts(f"{path}#body") == ["a"]


def test_a_folder_is_read_whole_in_the_order_of_its_names(put, tmp_path):
    put("d/b.txt", "b")
    put("d/a/z.md.gz", "z")
    put("d/c.jsonl", jsonl({"text": "c1"}, {"text": "c2"}))
    put("d/.hidden/h.txt", "h")
    put("d/picture.png", b"\x89")
    put("d/empty.txt", "")
    assert list(open_source(tmp_path / "d")) == [
        Document("z", "a/z.md.gz"),
        Document("b", "b.txt"),
        Document("c1", "c.jsonl:1"),
        Document("c2", "c.jsonl:2"),
    ]


def test_the_fingerprint_follows_the_content_and_not_the_place(put, tmp_path):
    first, second = put("d/a.txt", "text"), put("e/b.txt", "text")
    assert open_source(first).fingerprint == open_source(second).fingerprint
    assert open_source(first).fingerprint != open_source(put("a.md", "text")).fingerprint
    before = open_source(tmp_path / "d").fingerprint
    put("d/a.txt", "texT")
    assert open_source(tmp_path / "d").fingerprint != before
    path = put("a.jsonl", jsonl({"text": "a", "body": "b"}))
    assert open_source(f"{path}#body").fingerprint != open_source(path).fingerprint


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", "", r"a.txt is empty.*Put text in it"),
        ("a.txt", " \n", r"a.txt is empty"),
        ("a.jsonl", "\n", r"a.jsonl is empty"),
        ("a.json", "", r"a.json is empty"),
        ("a.json.gz", "[]", r"a.json.gz is empty"),
        ("a.txt", b"abc\xff", r"a.txt is not UTF-8: the byte at offset 3.*iconv"),
        ("a.txt.xz", b"abc\xe2\x82", r"not UTF-8: the byte at offset 3"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe4"}\n', r"not UTF-8: the byte at offset 24"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"\n', r"a.jsonl:3 is broken JSON: .* column 13. Mend or delete it"),
        ("a.json", '["a",\n]', r"a.json is broken JSON: .* line 2, column 1"),
        ("a.jsonl", "1" * 5000, r"a.jsonl:1 is JSON that cannot be read"),
        ("a.jsonl", "[" * 200_000, r"a.jsonl:1 is JSON that cannot be read"),
        ("a.jsonl", jsonl({"id": 1, "body": ""}), r"a.jsonl:1 has no field 'text'; its fields are id, body.*#FIELD"),
        ("a.jsonl", jsonl({"text": "a"}, {"text": 7}), r"a.jsonl:2 has a number where text should be"),
        ("a.json", "[[1]]", r"a.json\[0\] has a list where text should be"),
        ("a.jsonl", '{"text": "\\ud800"}', r"a.jsonl:1 holds half a surrogate pair"),
        ("a.csv", "x", r"suffix '.csv'; documents are read from .txt, .md, .jsonl, .json, .parquet.*convert"),
        ("a", "x", r"suffix 'none'"),
    ],
)
def test_what_cannot_be_read_gets_one_sentence_that_names_the_place(put, name, content, sentence):
    path = put(name, content)
    with pytest.raises(DataError, match=sentence):
        texts(path)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_packed_file_that_is_cut_or_foreign_is_named(put, suffix):
    path = put(f"a.txt{suffix}", os.urandom(5000).hex())
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match=f"a.txt{suffix} is no whole {suffix} file"):
        texts(path)
    path.write_bytes(b"not packed at all")
    with pytest.raises(DataError, match=f"is no whole {suffix} file"):
        texts(path)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_packed_file_that_is_broken_in_the_middle_is_named(put, suffix):
    path = put(f"a.jsonl{suffix}", jsonl(*(sha256(str(i).encode()).hexdigest() for i in range(3000))))
    stored = bytearray(path.read_bytes())
    for place in range(len(stored) // 2, len(stored) // 2 + 64):
        stored[place] ^= 0xFF
    path.write_bytes(stored)
    with pytest.raises(
        DataError, match=rf"a.jsonl{suffix} (is no whole|is not UTF-8|:\d+ is broken)|a.jsonl{suffix}:\d+"
    ):
        texts(path)


def test_a_missing_path_is_answered_with_the_nearest_names(put, tmp_path):
    put("d/novels.jsonl", "")
    with pytest.raises(DataError, match=r"novel.jsonl does not exist.*Did you mean .*novels.jsonl"):
        open_source(tmp_path / "d" / "novel.jsonl")
    with pytest.raises(DataError, match=r"'dd' is not in .*Did you mean .*d\?"):
        open_source(tmp_path / "dd" / "novels.jsonl")
    put("e/x.png", "x")
    with pytest.raises(DataError, match=r"holds no \.txt"):
        open_source(tmp_path / "e")
