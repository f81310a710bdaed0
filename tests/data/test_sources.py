"""Documents out of files: what is read, in which order, and one clear sentence for what cannot be read."""

import json
import logging
import os
import socket
import sys
from hashlib import sha256

import pytest

from positronic.data import DataSpec, Document, open_source
from positronic.data.sources.files import chunks, lines, text_chunks
from positronic.data.sources.json_values import json_values
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
    monkeypatch.setattr("positronic.data.sources.files.chunks", lambda path: chunks(path, 5))
    path = put("a.txt", "Größe<|endoftext|>zwei<|endoftext|>drei")
    assert texts(path) == ["Größe", "zwei", "drei"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_text_and_lines_do_not_depend_on_how_a_file_is_read(put, monkeypatch, size):
    content = "\ufeffa\n\nKäfer\n日本語\r\nlast"
    path = put("a.txt", content)
    monkeypatch.setattr("positronic.data.sources.files.chunks", lambda path: chunks(path, size))
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
    for field, sentence in (
        ("problem+other", r"a.jsonl:1 has no field 'other'; its fields are problem"),
        ("at.y", r"a.jsonl is empty: its 2 texts \('at.y'\) are null"),
        ("problem.x", r"a.jsonl:1 has text where an object with 'x' should be"),
    ):
        with pytest.raises(DataError, match=sentence):
            texts(f"{path}#{field}")


def test_fields_inside_lists_hundreds_deep_are_read_like_others(put):
    path = put("a.jsonl", '{"a": ' + "[" * 500 + '{"b": "x"}' + "]" * 500 + "}")
    assert texts(f"{path}#a.b") == ["x"]


NULLS = [
    ([{"text": "one"}, {"text": None, "title": "t"}, {"text": "two"}], "1 of 3 texts is null and passed over", 2),
    ([{"text": None}, {"title": "t"}, {"text": "one"}, None, {"text": ""}, "two"], "3 of 6 texts are null", 1),
    ([*[{"text": "one"}, {"text": "two"}] * 600, {}, {"text": None}], "2 of 1,202 texts are null", 1201),
]


@pytest.mark.parametrize(("found", "sentence", "first"), NULLS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.xz", "a.json"])
def test_a_text_that_is_null_or_missing_is_passed_over_counted_and_said_once(put, caplog, name, found, sentence, first):
    path = put(name, json.dumps(found) if name == "a.json" else jsonl(*found))
    source = open_source(path)
    for _ in range(2):
        assert {document.text for document in source} == {"one", "two"}
    (said,) = caplog.records
    place = f"{path}[{first - 1}]" if name == "a.json" else f"{path}:{first}"
    assert said.levelno == logging.WARNING
    assert said.getMessage().startswith(f"{path}: {sentence}")
    assert said.getMessage().endswith(f"the first at {place}")


def test_an_empty_text_is_passed_over_without_a_word(put, caplog):
    assert texts(put("a.jsonl", jsonl({"text": "one"}, {"text": ""}, {"text": "two"}))) == ["one", "two"]
    assert not caplog.records


def test_a_part_of_a_text_that_is_null_or_missing_is_left_out_of_it(put, caplog):
    path = put("a.jsonl", jsonl({"q": "Q", "a": "A"}, {"q": None, "a": "B"}, {"a": "C"}, {"q": None, "a": None}, {}))
    assert texts(f"{path}#q+a") == ["Q\n\nA", "B", "C"]
    assert caplog.messages == [f"{path}: 2 of 5 texts are null and passed over, the first at {path}:4"]


def test_texts_of_which_all_are_null_are_no_data(put):
    path = put("a.jsonl", jsonl({"text": None}, {"text": None}))
    with pytest.raises(DataError, match=r"a.jsonl is empty: its 2 texts \('text'\) are null. Choose another field"):
        texts(path)


@pytest.mark.parametrize("n", [1, 5, 2000])
def test_a_field_that_no_record_of_a_file_has_is_a_mistake(put, tmp_path, n):
    put("d/a.jsonl", jsonl({"text": "one"}))
    put("d/b.jsonl", jsonl(*[{"id": 1, "body": "x"}] * n))
    with pytest.raises(
        DataError, match=r"b.jsonl:1 has no field 'text'; its fields are id, body. Choose one: .*#FIELD"
    ):
        texts(tmp_path / "d")


NO_TEXT = [
    (7, "a number"),
    (0, "a number"),
    (0.5, "a number"),
    (True, "true or false"),
    (False, "true or false"),
    ({}, "an object"),
    ({"a": "b"}, "an object"),
    ([], "a list"),
    (["a"], "a list"),
]


@pytest.mark.parametrize(("value", "kind"), NO_TEXT)
def test_a_value_that_is_no_text_never_becomes_text(put, value, kind):
    for name, dump in (("a.jsonl", jsonl), ("a.json", lambda *found: json.dumps(found))):
        place = {"a.jsonl": "a.jsonl:2", "a.json": r"a.json\[1\]"}[name]
        path = put(name, dump({"text": "a"}, {"text": value}))
        with pytest.raises(DataError, match=rf"{place} has {kind} where text should be \('text'\). Write it as text"):
            texts(path)
        if not isinstance(value, list):  # of several fields, lists are what they hold
            path = put(name, dump({"q": "a", "text": "b"}, {"q": "a", "text": value}))
            with pytest.raises(DataError, match=rf"{place} has {kind} where text should be"):
                texts(f"{path}#q+text")


def test_json_and_jsonl_hold_strings_or_objects_with_a_field(put):
    assert texts(put("a.jsonl", jsonl({"text": "a"}, "b") + "\n  \n" + jsonl({"text": " "}))) == ["a", "b"]
    assert texts(put("a.json", json.dumps([{"text": "a"}, "b"]))) == ["a", "b"]
    path = put("b.jsonl", jsonl({"id": 1, "body": "a"}))
    assert texts(f"{path}#body") == ["a"]


def test_a_json_file_may_hold_one_record_a_line(put):
    lines = jsonl({"text": "a"}, {"text": "b"}, "c")
    assert list(open_source(put("a.json", lines))) == [
        Document("a", "a.json:1"),
        Document("b", "a.json:2"),
        Document("c", "a.json:3"),
    ]
    assert texts(put("a.json.gz", '{"text": "a"}')) == ["a"]
    with pytest.raises(DataError, match=r"b.json is broken JSON: Expecting value at line 2, column 1"):
        texts(put("b.json", '{"text": "a"}\nno json'))


RECORDS = [
    {"text": 'Größe \\ " 日本\n'},
    "two",
    {"text": "x" * 70, "n": [-1.5e10, {"a": {}}], "no": None},
    {"text": "y"},
]


@pytest.mark.parametrize("size", [1, 2, 3, 50, 1000])
@pytest.mark.parametrize("written", [json.dumps(RECORDS), json.dumps(RECORDS, indent=2), " [] ", jsonl(*RECORDS)])
def test_json_does_not_depend_on_how_it_is_read(size, written):
    pieces = [written[at : at + size] for at in range(0, len(written), size)]
    values = [value for _, value in json_values(pieces, "a.json")]
    assert values == ([] if written == " [] " else RECORDS)


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("numbers", ["[12, 3456,7]", "12 3456\n7", "[\n12,\n3456, 7 ]\n\n"])
def test_numbers_are_whole_wherever_json_is_cut(size, numbers):
    pieces = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    found = list(json_values(pieces, "a.json"))
    assert [value for _, value in found] == [12, 3456, 7]
    assert [where for where, _ in found] == (["[0]", "[1]", "[2]"] if "," in numbers else [":1", ":1", ":2"])


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('["a",\n]', "Expecting value at line 2, column 1"),
        ('["a"\n "b"]', "Expecting ',' delimiter at line 2, column 2"),
        ('["a", "b"', "Expecting ',' delimiter at column 10"),
        ('[{"a": 1,\n "b": tru', "Expecting value at line 2, column 7"),
        ('[\n\n"a", "b', "Unterminated string starting at at line 3, column 6"),
        ('["a"] "b"', "Extra data at column 7"),
        ("[", "Expecting value at column 2"),
        ('{"a" 1}', "Expecting ':' delimiter at column 6"),
    ],
)
def test_what_is_broken_in_json_is_found_where_it_stands(size, text, sentence):
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    with pytest.raises(DataError, match=f"a.json is broken JSON: {sentence}. Mend or delete it"):
        list(json_values(pieces, "a.json"))


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


def names(path):
    return [document.name for document in open_source(path)]


def test_a_folder_that_is_a_link_is_followed_once(put, tmp_path):
    for name in ("d/b/one.txt", "d/two.txt", "far/three.txt", "far/deep/four.txt"):
        put(name, name)
    (tmp_path / "d/a").symlink_to(tmp_path / "d/b")  # a link that comes before what it leads to
    (tmp_path / "d/link").symlink_to("../far")
    (tmp_path / "d/zlink").symlink_to("../far", target_is_directory=True)
    (tmp_path / "d/five.txt").symlink_to("../far/three.txt")
    assert names(tmp_path / "d") == ["b/one.txt", "five.txt", "link/deep/four.txt", "link/three.txt", "two.txt"]
    (tmp_path / "whole").symlink_to("d")
    assert names(tmp_path / "whole") == names(tmp_path / "d")


def test_links_in_a_circle_end(put, tmp_path):
    put("d/e/a.txt", "a")
    (tmp_path / "d/e/up").symlink_to("..")
    (tmp_path / "d/self").symlink_to(".")
    (tmp_path / "d/e/there").symlink_to("../../f")
    put("f/b.txt", "b")
    (tmp_path / "f/back").symlink_to("../d/e")
    assert names(tmp_path / "d") == ["e/a.txt", "e/there/b.txt"]


def test_a_link_that_leads_nowhere_is_refused(put, tmp_path):
    put("d/a.txt", "a")
    (tmp_path / "d/b.txt").symlink_to("gone.txt")
    with pytest.raises(DataError, match=r"d/b.txt is a link to gone.txt, which does not exist. Mend or delete it"):
        open_source(tmp_path / "d")
    with pytest.raises(DataError, match=r"d/b.txt is a link to gone.txt, which does not exist"):
        open_source(tmp_path / "d/b.txt")
    (tmp_path / "d/b.txt").unlink()
    (tmp_path / "d/more").symlink_to("more")  # and one to itself
    with pytest.raises(DataError, match=r"d/more is a link to more, which does not exist"):
        open_source(tmp_path / "d")
    (tmp_path / "d/more").rename(tmp_path / "d/.more")
    assert texts(tmp_path / "d") == ["a"]


def test_what_can_be_read_but_once_is_refused_and_not_waited_for(put, tmp_path, monkeypatch):
    put("d/a.txt", "a")
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    os.mkfifo(tmp_path / "d/b.txt")
    for path in (tmp_path / "d/b.txt", tmp_path / "d"):
        with pytest.raises(DataError, match=r"d/b.txt is a pipe, and data is read several times over. Write it into"):
            open_source(path)
    os.mkfifo(tmp_path / "d/other")
    (tmp_path / "d/b.txt").unlink()
    assert texts(tmp_path / "d") == ["a"]
    for device in ("/dev/null", "/dev/zero"):
        with pytest.raises(DataError, match=f"{device} is a device, and data is read several times"):
            open_source(device)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("s.txt")
        with pytest.raises(DataError, match=r"s.txt is a socket"):
            open_source("s.txt")


def test_a_name_that_is_not_utf8_is_refused_in_a_sentence_that_can_be_printed(put, tmp_path):
    folder = os.fsencode(tmp_path / "d")
    os.mkdir(folder)
    with open(folder + b"/caf\xe9.txt", "wb") as file:
        file.write(b"text")
    for spec in (tmp_path / "d", os.fsdecode(folder + b"/caf\xe9.txt"), os.fsdecode(b"hf:caf\xe9")):
        with pytest.raises(DataError, match=r"The name .*caf\\udce9.* is not UTF-8. Rename it") as refused:
            open_source(spec)
        str(refused.value).encode()


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
        ("a.json", "[" * 200_000, r"a.json is JSON that cannot be read"),
        ("a.json", '[{"text": ' + "1" * 5000 + "}]", r"a.json is JSON that cannot be read"),
        ("a.jsonl", '{"text": ' + "[" * 500 + "]" * 500 + "}", r"a.jsonl:1 has a list where text should be"),
        ("a.json", '[{"text": ' + '{"a":' * 500 + "1" + "}" * 500 + "}]", r"a.json\[0\] has an object where text"),
        ("a.jsonl", jsonl({"id": 1, "body": ""}), r"a.jsonl:1 has no field 'text'; its fields are id, body.*#FIELD"),
        ("a.jsonl", jsonl({"text": "a"}, {"text": 7}), r"a.jsonl:2 has a number where text should be"),
        ("a.json", "[[1]]", r"a.json\[0\] has a list where text should be"),
        ("a.jsonl", '{"text": "\\ud800"}', r"a.jsonl:1 holds half a surrogate pair"),
        ("a.json", '["a", "\\udc00\\ud800"]', r"a.json\[1\] holds half a surrogate pair"),
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
    with pytest.raises(DataError, match=r"novels.jsonl/a.txt does not exist: .*novels.jsonl is no folder"):
        open_source(tmp_path / "d" / "novels.jsonl" / "a.txt")
    put("e/x.png", "x")
    with pytest.raises(DataError, match=r"holds no \.txt"):
        open_source(tmp_path / "e")
