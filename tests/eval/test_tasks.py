"""Files to questions: each form, each way of packing, each thing that may be wrong with a line or a name."""

import gzip
import io
import lzma
import tarfile

import pytest
from task_example import LINES, lines, put

from positronic.errors import DataError
from positronic.eval import open_task

CANDIDATES = {
    "pairs": ([("", "The dogs barks."), ("", "The dogs bark.")], 1),
    "choices": ([("Question: What barks?", " a dog"), ("Question: What barks?", " a stone")], 0),
    "contexts": ([("Ann", " was early."), ("Bob", " was early.")], 1),
    "completion": ([("He gave the dog a", " bone")], 0),
}


@pytest.mark.parametrize("form", LINES)
def test_a_line_asks_what_its_keys_say(tmp_path, form):
    put(tmp_path, "mine.jsonl", LINES[form], LINES[form])
    task = open_task("mine", tmp_path)
    assert task.form.name == form
    assert {name: len(items) for name, items in task.parts.items()} == {"mine": 2}
    item = task.parts["mine"][0]
    assert (task.form.candidates(item), item.gold) == CANDIDATES[form]


@pytest.mark.parametrize(("name", "end"), [("arc_easy", "\nAnswer:"), ("piqa", "Answer:"), ("copa", "")])
def test_known_tasks_ask_as_the_field_does(tmp_path, name, end):
    put(tmp_path, f"{name}_dev.jsonl", LINES["choices"])
    item = open_task(name, tmp_path).parts[name][0]
    assert item.contexts == ("Question: What barks?" + end,)


def test_one_space_joins_whatever_stands_at_the_border(tmp_path):
    record = {"context": "574 + 203 = ", "continuation": " 777"}
    put(tmp_path, "sums.jsonl", record)
    task = open_task("sums", tmp_path)
    assert task.form.candidates(task.parts["sums"][0]) == [("574 + 203 =", " 777")]


@pytest.mark.parametrize("packing", ["folder", "tar", "tar.gz", "tar.xz"])
def test_a_task_of_many_files_has_a_part_for_each(tmp_path, packing):
    texts = {"agreement": lines(LINES["pairs"], LINES["pairs"]), "binding": lines(LINES["pairs"])}
    if packing == "folder":
        (tmp_path / "blimp").mkdir()
        for name, text in texts.items():
            (tmp_path / "blimp" / f"{name}.jsonl").write_text(text, "utf-8")
    else:
        with tarfile.open(tmp_path / f"blimp_dev.{packing}", f"w:{packing[4:]}") as tar:
            for name, text in texts.items():
                member = tarfile.TarInfo(f"data/{name}.jsonl")
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
    task = open_task("blimp", tmp_path)
    assert {name: len(items) for name, items in task.parts.items()} == {"agreement": 2, "binding": 1}
    assert {name: len(items) for name, items in task.first(1).parts.items()} == {"agreement": 1, "binding": 1}


@pytest.mark.parametrize(("suffix", "opened"), [("jsonl.gz", gzip.open), ("jsonl.xz", lzma.open)])
def test_packed_files_are_read(tmp_path, suffix, opened):
    with opened(tmp_path / f"words.{suffix}", "wt") as file:
        file.write(lines(LINES["completion"]))
    assert len(open_task("words", tmp_path).parts["words"]) == 1


def complaint(name, folder) -> str:
    with pytest.raises(DataError) as refused:
        open_task(name, folder)
    return str(refused.value)


def test_a_task_that_is_not_there_says_what_to_download_and_where_to_put_it(tmp_path):
    put(tmp_path, "copa.jsonl", LINES["choices"])
    said = complaint("blimp", tmp_path)
    assert "github.com/alexwarstadt/blimp" in said
    assert f"not in {tmp_path}, which holds copa" in said
    assert "winogrande.jsonl (it is in scripts/eval/local_data" in complaint("winogrande", tmp_path)
    assert "mine.jsonl, one object a line" in complaint("mine", tmp_path)
    assert "does not exist" in complaint("copa", tmp_path / "nowhere")


def test_a_name_that_means_two_files_is_refused(tmp_path):
    for name in ("arc_easy.jsonl", "arc_challenge.jsonl"):
        put(tmp_path, name, LINES["choices"])
    assert "arc_challenge, arc_easy" in complaint("arc", tmp_path)
    assert open_task("arc_easy", tmp_path).path.name == "arc_easy.jsonl"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"question": "?"}, "has question; a task's lines hold one of pairs: sentence_good"),
        (["a"], "has no keys"),
        ({**LINES["choices"], "gold": 2}, "2 candidates, from 0, and says that 2 is right"),
        ({**LINES["choices"], "gold": "a dog"}, "says that a dog is right"),
        ({**LINES["choices"], "choices": ["a dog", 7]}, r":1 (choices) should be text"),
        ({**LINES["completion"], "continuation": " "}, "empty text"),
    ],
)
def test_a_line_that_cannot_be_asked_is_named(tmp_path, record, said):
    put(tmp_path, "mine.jsonl", record)
    found = complaint("mine", tmp_path)
    assert said in found
    assert "mine.jsonl:1" in found


def test_files_that_are_no_tasks_are_named(tmp_path):
    put(tmp_path, "mixed.jsonl", LINES["choices"], LINES["completion"])
    assert "mixed.jsonl:2 lacks one of query, choices, gold" in complaint("mixed", tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    assert "holds no line" in complaint("empty", tmp_path)
    (tmp_path / "torn.tar.xz").write_bytes(lzma.compress(b"x" * 5000)[:-20])
    assert "torn.tar.xz" in complaint("torn", tmp_path)
