"""Data sets in the forms of the Hugging Face hub: read once into a file, which is then the data, to the last bit."""

import datetime
import gzip
import json
import os
import sys
from decimal import Decimal

import pytest

from positronic.data import DataSpec, HubSet, heldout_documents, open_chats, open_pairs, open_source, text_mixture
from positronic.errors import DataError

datasets = pytest.importorskip("datasets")
from datasets.exceptions import DatasetNotFoundError  # noqa: E402
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled  # noqa: E402

ROWS = [{"uid": i, "content": f"Story {i}: it was number {i}.", "style": "plain"} for i in range(400)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSITRONIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path, table):
    """A copy of a repository of the hub: a card that names configurations and splits, and parquet files."""
    table("org/set/data/en/0.parquet", ROWS[:250])
    table("org/set/data/en/1.parquet", ROWS[250:])
    table("org/set/data/zh/0.parquet", [{"content": "一", "uid": 0}])
    table("org/set/data/zh/test.parquet", [{"content": "二", "uid": 1}])
    card = {"en": {"train": "data/en/*"}, "zh": {"train": "data/zh/0*", "test": "data/zh/test*"}}
    lines = ["---", "configs:"]
    for config, splits in card.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [line for s, path in splits.items() for line in (f"  - split: {s}", f"    path: {path}")]
    (tmp_path / "org/set/README.md").write_text("\n".join([*lines, "---", "# A set"]))
    return tmp_path / "org" / "set"


def texts(spec):
    return [document.text for document in open_source(spec)]


def unreachable(monkeypatch, error=None):
    """Every look at a data set ends in `error`."""

    def refuse(*_, **__):
        raise error or AssertionError("the data set was opened again")

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    monkeypatch.setattr(datasets, "load_from_disk", refuse)


@pytest.mark.parametrize(
    ("text", "expected", "field", "weight"),
    [
        ("hf:owner/name", HubSet("owner/name"), None, None),
        ("hf:name:test", HubSet("name", split="test"), None, None),
        ("hf:o/n@cfg-1.0:train?take=5#content:0.35", HubSet("o/n", "cfg-1.0", "train", 5), "content", 0.35),
        ("hf:o/n@cfg:0.5", HubSet("o/n", "cfg"), None, 0.5),
        ("hf:o/n?revision=abc&files=a/*.json#a+b:2", HubSet("o/n", revision="abc", files="a/*.json"), "a+b", 2.0),
        ("hf:/data/sets/n@c:train", HubSet("/data/sets/n", "c", "train"), None, None),
        ("hf:C:/data/n:train", HubSet("C:/data/n", None, "train"), None, None),
    ],
)
def test_a_data_set_is_written_as_name_configuration_split_options_field_and_weight(text, expected, field, weight):
    spec = DataSpec.parse(text)
    assert spec == DataSpec(expected, field, weight)
    assert DataSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hf:", r"'hf:' names no data set. Write hf:NAME"),
        ("hf:o/n?take=0", r"takes '0' rows; give a whole number"),
        ("hf:o/n?take=all", r"takes 'all' rows"),
        ("hf:o/n?tke=5", r"option 'tke'. Did you mean take"),
    ],
)
def test_what_names_no_data_set_says_how_to_write_one(text, sentence):
    with pytest.raises(DataError, match=sentence):
        DataSpec.parse(text)


def test_a_copy_of_a_repository_is_read_by_configuration_and_split(mirror):
    assert texts(f"hf:{mirror}@en#content") == [row["content"] for row in ROWS]
    assert texts(f"hf:{mirror}@zh:test#content") == ["二"]
    assert open_source(f"hf:{mirror}@zh#content").name == str(mirror)


def test_a_bound_takes_the_first_rows_and_the_text_column_alone(mirror, cache):
    assert texts(f"hf:{mirror}@en?take=300#content") == [row["content"] for row in ROWS[:300]]
    (folder,) = (cache / "hub").iterdir()
    assert folder.name.startswith("org--set-")
    with gzip.open(folder / "rows.jsonl.gz", "rt", encoding="utf-8") as file:
        assert {tuple(json.loads(line)) for line in file} == {("content",)}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["rows"], manifest["config"], manifest["take"]) == (300, "en", 300)


def test_what_was_saved_to_disk_is_read_with_and_without_splits(tmp_path):
    first, second = (datasets.Dataset.from_list(ROWS[a : a + 2]) for a in (0, 2))
    first.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": first, "test": second}).save_to_disk(tmp_path / "two")
    expected = [row["content"] for row in ROWS[:4]]
    assert texts(f"hf:{tmp_path}/one#content") == texts(f"hf:{tmp_path}/two#content") == expected[:2]
    assert texts(f"hf:{tmp_path}/two:test#content") == expected[2:]


def test_local_data_files_are_read_without_a_card(tmp_path, put, table):
    put("plain/a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    assert texts(f"hf:{tmp_path}/plain#content") == [row["content"] for row in ROWS[:3]]
    put("mixed/chat/a.json", json.dumps([{"instruction": "I", "output": "O"}]))
    put("mixed/text/b.jsonl", json.dumps(ROWS[0]))
    (conversation,) = open_chats(f"hf:{tmp_path}/mixed?files=chat/*.json")
    assert [message.content for message in conversation.messages] == ["I", "O"]


BESIDE = {"text": "beside.txt", "json": "beside.jsonl", "csv": "beside.csv", "parquet": "beside.parquet"}


def table_of_text(put, table, name, text):
    """A file of one row of text."""
    if name.endswith(".parquet"):
        return table(name, [{"text": text}])
    written = {".txt": text + "\n", ".csv": f"text,n\n{text},1\n", ".jsonl": json.dumps({"text": text}) + "\n"}
    return put(name, written[os.path.splitext(name)[1]])


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("form", ["hf:{}#text", "hf:./{}#text", "hf:../here/{}#text"])
def test_a_folder_that_is_called_as_a_reader_of_datasets_is_that_folder(put, table, tmp_path, monkeypatch, name, form):
    suffix = os.path.splitext(BESIDE[name])[1]
    table_of_text(put, table, f"here/{name}/a{suffix}", "the right text")
    table_of_text(put, table, f"here/{BESIDE[name]}", "another text")
    monkeypatch.chdir(tmp_path / "here")
    assert texts(form.format(name)) == ["the right text"]


@pytest.mark.parametrize("name", ["text", "json", "csv", "parquet", "imagefolder", "arrow"])
def test_where_no_such_folder_is_nothing_is_read(put, table, tmp_path, monkeypatch, name):
    table_of_text(put, table, BESIDE.get(name, "beside.txt"), "private")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"hf:{name} names no folder here, and {name} is how datasets calls a reader"):
        texts(f"hf:{name}")
    with pytest.raises(DataError, match=r"hf:.*beside.* is a file, and not a data set. Name it without hf:"):
        texts(f"hf:{BESIDE.get(name, 'beside.txt')}")


def test_folders_that_are_links_are_read_once_or_refused(put, tmp_path):
    put("d/b.jsonl", json.dumps({"text": "b"}))
    put("far/deep/c.jsonl", json.dumps({"text": "c"}))
    (tmp_path / "d/link").symlink_to("../far")
    (tmp_path / "d/round").symlink_to("../d")
    assert sorted(texts(tmp_path / "d")) == ["b", "c"]
    with pytest.raises(DataError, match=r"link is a link to a folder.*far itself"):
        texts(f"hf:{tmp_path}/d")
    (tmp_path / "d/link").unlink()
    assert texts(f"hf:{tmp_path}/d") == ["b"]
    (tmp_path / "d/gone.jsonl").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"gone.jsonl is a link to nowhere, which does not exist"):
        texts(f"hf:{tmp_path}/d")
    (tmp_path / "d/gone.jsonl").unlink()
    os.mkfifo(tmp_path / "d/pipe.jsonl")
    with pytest.raises(DataError, match=r"pipe.jsonl is a pipe"):
        texts(f"hf:{tmp_path}/d")


def test_a_text_that_is_null_is_passed_over_and_its_row_named(put, table, tmp_path, caplog):
    rows = [*({"text": text} for text in "ab"), {"text": None}, *({"text": text} for text in "cd"), {"text": None}]
    table("nulls/x.parquet", rows)
    put("table/a.csv", "text,label\nhello there,1\n,2\nNA,3\n")
    for name, right, sentence in (
        ("nulls", ["a", "b", "c", "d"], "2 of 6 texts are null and passed over, the first at {}, row 3"),
        ("table", ["hello there"], "2 of 3 texts are null and passed over, the first at {}, row 2"),
    ):
        caplog.clear()
        data = f"hf:{tmp_path}/{name}"
        assert texts(f"{data}#text") == right
        assert [m for m in caplog.messages if "are null" in m] == [f"{data}: {sentence.format(data)}"]
    table("none/x.parquet", [{"text": None, "n": 1}, {"text": None, "n": 2}])
    with pytest.raises(DataError, match=r"hf:.*/none is empty: its 2 texts \('text'\) are null"):
        texts(f"hf:{tmp_path}/none")


NO_TEXT = [
    (b"bytes", "bytes"),
    (datetime.date(2020, 1, 2), "a date"),
    (datetime.datetime(2020, 1, 2, 3), "a date and time"),
    (datetime.time(3, 4), "a time"),
    (datetime.timedelta(days=1), "a length of time"),
    (Decimal("1.50"), "a decimal number"),
    (7, "a number"),
    (0.5, "a number"),
    (True, "true or false"),
    ({"a": "b"}, "an object"),
    (["a", "b"], "a list"),
]


@pytest.mark.parametrize(("value", "kind"), NO_TEXT)
def test_a_value_that_is_no_text_never_becomes_text(table, tmp_path, value, kind):
    path = table("d/a.parquet", [{"text": None, "n": 1}, {"text": value, "n": 2}])
    for spec, place in ((str(path), f"{path}:2"), (f"hf:{tmp_path}/d", f"hf:{tmp_path}/d, row 2")):
        with pytest.raises(DataError) as refused:
            texts(spec)
        assert str(refused.value).startswith(f"{place} has {kind} where text should be ('text')")


def test_a_csv_of_numbers_is_no_text(put, tmp_path):
    put("d/a.csv", "text,n\n5,1\n6,2\n")
    with pytest.raises(DataError, match=r"hf:.*/d, row 1 has a number where text should be"):
        texts(f"hf:{tmp_path}/d")


DATED = {"at": datetime.datetime(2020, 1, 2), "id": b"\0\1", "price": Decimal("1.5")}


def test_chats_and_pairs_may_have_values_that_are_no_text_where_nothing_reads_them(table, tmp_path):
    table("chat/a.parquet", [{"instruction": "I", "output": "O", **DATED}])
    (conversation,) = open_chats(f"hf:{tmp_path}/chat")
    assert [message.content for message in conversation.messages] == ["I", "O"]
    table("pair/a.parquet", [{"prompt": "P", "chosen": "C", "rejected": "R", **DATED}])
    (pair,) = open_pairs(f"hf:{tmp_path}/pair")
    assert [message.content for message in pair.chosen] == ["P", "C"]


@pytest.mark.parametrize("value", [b"bytes", datetime.datetime(2020, 1, 2), Decimal("1.5"), 7])
def test_chats_refuse_what_is_no_text(table, tmp_path, value):
    for field in ("instruction", "output"):
        path = table("chat/a.parquet", [{"instruction": "I", "output": "O"} | {field: value}])
        for spec in (str(path), f"hf:{tmp_path}/chat"):
            with pytest.raises(DataError, match=r"is no conversation that can be read"):
                list(open_chats(spec))
    path = table("said/a.parquet", [{"messages": [{"role": "user", "content": value}]}])
    for spec in (str(path), f"hf:{tmp_path}/said"):
        with pytest.raises(DataError, match=r"is no conversation that can be read"):
            list(open_chats(spec))


def test_rows_are_conversations_and_pairs(tmp_path, table):
    said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "reasoning_content": None}]
    other = [said[0], {"role": "assistant", "content": "B"}]
    table("set/a.parquet", [{"prompt": "Q", "messages": said, "chosen": said, "rejected": other, "uid": 1}])
    (conversation,) = open_chats(f"hf:{tmp_path}/set")
    assert [message.content for message in conversation.messages] == ["Q", "A"]
    (pair,) = open_pairs(f"hf:{tmp_path}/set:train?take=1")
    assert [pair.chosen[-1].content, pair.rejected[-1].content] == ["A", "B"]
    for opened in (open_chats, open_pairs):
        with pytest.raises(DataError, match="known by their format; leave it out"):
            opened(f"hf:{tmp_path}/set#messages")


def test_a_stream_that_is_resumed_is_the_one_that_never_stopped(mirror, tokenizer, tmp_path, monkeypatch):
    data = [f"hf:{mirror}@en?take=350#content:0.75", f"hf:{mirror}@en#style:0.25"]

    def opened():
        return text_mixture(data, tokenizer, seq_len=16, seed=3, cache=tmp_path / "shards")

    whole = opened()
    expected = [whole.next(5) for _ in range(12)]
    first = opened()
    for _ in range(7):
        first.next(5)
    position = json.loads(json.dumps(first.position()))
    unreachable(monkeypatch)  # nothing is asked of the data set again
    resumed = opened()
    resumed.seek(position)
    for batch in expected[7:]:
        again = resumed.next(5)
        assert again.tokens.equal(batch.tokens)
        assert again.targets.equal(batch.targets)
        assert again.row_bytes.equal(batch.row_bytes)
    assert resumed.position() == whole.position()
    assert heldout_documents(data[:1])


def test_a_resumed_run_keeps_its_rows_when_the_hub_moves_on_and_a_changed_folder_is_other_data(
    mirror, table, monkeypatch
):
    before = open_source(f"hf:{mirror}@zh#content").fingerprint
    table("org/set/data/zh/0.parquet", [{"content": "三", "uid": 0}])
    assert open_source(f"hf:{mirror}@zh#content").fingerprint != before
    on_hub = datasets.load_dataset_builder(str(mirror), "en")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: on_hub)
    first = open_source("hf:far/away@en?take=9#content").fingerprint
    unreachable(monkeypatch)
    assert open_source("hf:far/away@en?take=9#content").fingerprint == first


def error_of(kind, *message):
    error = kind.__new__(kind)  # the hub's errors want a response, which does not matter here
    error.args = message
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            DatasetNotFoundError("Dataset 'far/away' is a gated dataset on the Hub. You must be authenticated."),
            r"far/away is gated.*Accept their terms at https://huggingface.co/datasets/far/away, then log in with "
            r"`hf auth login`, or set HF_TOKEN",
        ),
        (error_of(GatedRepoError, "403 Client Error"), r"far/away is gated.*HF_TOKEN"),
        (
            DatasetNotFoundError("Dataset 'far/away' doesn't exist on the Hub or cannot be accessed."),
            r"knows no data set far/away, or it is private. Check the name; or log in",
        ),
        (
            ConnectionError("Couldn't reach 'far/away' on the Hub (ConnectError)"),
            r"far/away cannot be fetched.*no network, or HF_HUB_OFFLINE is set.*`hf download far/away .*read "
            r"hf:FOLDER/far/away here",
        ),
        (OfflineModeIsEnabled("offline"), r"no network, or HF_HUB_OFFLINE is set \(offline\)"),
        (error_of(LocalEntryNotFoundError, "not on the disk"), r"there is no network"),
        (
            ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'zh']\nExample"),
            r"far/away has several configurations; there are en, zh. Name one: hf:far/away@CONFIG",
        ),
        (ValueError("something\nelse"), r"hf:far/away cannot be read: something else \(ValueError\)"),
    ],
)
def test_a_data_set_that_cannot_be_had_is_answered_in_one_sentence(monkeypatch, error, sentence, cache):
    unreachable(monkeypatch, error)
    with pytest.raises(DataError, match=sentence):
        open_source("hf:far/away")
    assert not list((cache / "hub").iterdir())


def test_offline_mode_itself_is_answered_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"far/away cannot be fetched.*HF_HUB_OFFLINE is set"):
        open_source("hf:far/away")


def test_without_the_library_it_is_named_with_the_line_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", None)
    with pytest.raises(DataError, match=r"Reading hf:far/away needs datasets: pip install 'positronic\[data\]'"):
        open_source("hf:far/away")


def test_a_connection_that_breaks_on_the_way_leaves_nothing_half_read(monkeypatch, cache, mirror):
    class Stream(list):
        column_names = None

        def __iter__(self):
            yield from super().__iter__()
            if self:
                raise ConnectionError("Server Disconnected")

    builder = datasets.load_dataset_builder(str(mirror), "en")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    for rows, sentence in ((ROWS[:9], r"cannot be fetched.*Server Disconnected"), ([], r"is empty: it has no rows")):
        monkeypatch.setattr(builder, "as_streaming_dataset", lambda rows=rows: {"train": Stream(rows)})
        with pytest.raises(DataError, match=sentence):
            open_source("hf:far/away#content")
    assert not list((cache / "hub").iterdir())


def test_what_a_data_set_does_not_have_is_answered_with_what_it_has(mirror, tmp_path):
    with pytest.raises(DataError, match=r"has several configurations; there are en, zh"):
        open_source(f"hf:{mirror}#content")
    with pytest.raises(DataError, match=r"has no configuration 'fr'; there are en, zh. Name one"):
        open_source(f"hf:{mirror}@fr#content")
    with pytest.raises(DataError, match=r"has no split 'valid'; its splits are train. Name one"):
        open_source(f"hf:{mirror}@en:valid#content")
    with pytest.raises(DataError, match=r"has no field 'text'; its fields are uid, content, style. Choose one: hf:"):
        open_source(f"hf:{mirror}@en")
    with pytest.raises(DataError, match=r"sett does not exist.*Did you mean .*set"):
        open_source(f"hf:{mirror}t@en")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"holds no data files that can be read"):
        open_source(f"hf:{tmp_path}/none")


def test_an_empty_or_broken_data_set_is_named(tmp_path, put, table):
    table("empty/a.parquet", [])
    with pytest.raises(DataError, match=r"hf:.*/empty is empty: it has no rows"):
        open_source(f"hf:{tmp_path}/empty")
    datasets.Dataset.from_dict({"text": []}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"hf:.*/saved is empty: it has no rows. Name another data set or split"):
        open_source(f"hf:{tmp_path}/saved")
    put("nothing/a.jsonl", "")
    with pytest.raises(DataError, match=r"hf:.*/nothing is empty: it has no rows"):
        open_source(f"hf:{tmp_path}/nothing")
    put("broken/a.parquet", b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"hf:.*/broken cannot be read: .*ArrowInvalid"):
        open_source(f"hf:{tmp_path}/broken")
