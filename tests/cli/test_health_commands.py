"""`health` and `ablate` as they are typed: one JSON object, a table, a page; bad input is one sentence and code 2."""

import json
import sys
from pathlib import Path

import pytest
import torch

from positronic.checkpoint import TrainingPart, save
from positronic.cli import main
from positronic.models import build
from positronic.text import byte_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "observe"))
from health_example import small, texts

TOKENS = byte_tokenizer()
PART = TrainingPart({"x": torch.zeros(1)}, {"counters": {"step": 1000}})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model whose gates are half open and one that also has a dead gate, by their records trained; 10 documents."""
    folder = tmp_path_factory.mktemp("health")
    model = build(small(), 1, tokenizer=TOKENS)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(".g"):
                p.fill_(0.5)
            elif not p.any():
                p.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    save(folder / "well", model, TOKENS, PART)
    with torch.no_grad():
        model.trunk[1].mixer.injections[1].gates[0].g.zero_()
    save(folder / "sick", model, TOKENS, PART)
    save(folder / "new", build(small(), 1, tokenizer=TOKENS), TOKENS)
    (folder / "ten.jsonl").write_text("\n".join(json.dumps(text) for text in texts(10)), "utf-8")
    (folder / "one.txt").write_text(texts(1, words=60)[0], "utf-8")
    return folder


def words(place, command, *more):
    return [command, str(place), "--device", "cpu", *map(str, more)]


def answer(capsys, line):
    capsys.readouterr()
    assert main([*line, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys, line) -> str:
    capsys.readouterr()
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    return err


def test_health_prints_one_object_with_every_organ(place, capsys):
    found = answer(capsys, words(place / "well", "health", "--data", place / "one.txt"))
    assert (found["steps"], found["trained"], found["folder"]) == (1000, True, str(place / "well"))
    assert {"engram", "kuramoto", "specialists", "moe", "mtp", "jepa", "head"} <= {x["organ"] for x in found["lines"]}
    assert "dead gate" not in {line["finding"] for line in found["lines"]}
    assert any(line["reading"] == "bits per byte" for line in found["lines"])
    sick = answer(capsys, words(place / "sick", "health", "--data", place / "one.txt"))
    (line,) = [line for line in sick["lines"] if line["finding"] == "dead gate"]
    assert (line["organ"], line["layer"], line["verdict"], line["values"][0]) == ("engram", 1, "broken", 0.0)
    assert sick["verdict"] == "broken"


def test_a_broken_model_is_a_result_unless_strict(place, capsys):
    line = words(place / "sick", "health", "--data", place / "one.txt")
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "broken: dead gate in engram of layer 1" in out
    assert main([*line, "--strict"]) == 1
    assert main([*words(place / "new", "health", "--data", place / "one.txt"), "--strict"]) == 0


def test_without_data_a_new_model_reads_pythons_documentation(place, capsys):
    assert main(words(place / "new", "health", "--max-bytes", 600)) == 0
    out = capsys.readouterr().out
    assert "A new model" in out
    assert "bits per byte" in out


def test_the_page_says_what_to_do_and_shows_every_reading(place, capsys, tmp_path):
    page = tmp_path / "health.html"
    found = answer(capsys, words(place / "sick", "health", "--data", place / "one.txt", "--out", page))
    text = page.read_text("utf-8")
    assert "dead gate" in text
    assert "trunk.1.mixer.injections.1.gates.0" in text
    assert all(line["reading"] in text for line in found["lines"])
    assert "http" not in text.replace("http-equiv", ""), "the page asks for the network"
    bars = text.count("<rect class=broken")
    assert bars == sum(len(line["values"]) for line in found["lines"] if line["verdict"] == "broken")


def test_ablate_prints_organs_and_layers(place, capsys):
    found = answer(capsys, words(place / "well", "ablate", "--data", place / "ten.jsonl"))
    assert found["documents"] == 10
    without = {(row["organ"], row["layer"]): row for row in found["without"]}
    assert {("engram", None), ("moe", None), ("kuramoto", 1), ("attention", 2)} <= without.keys()
    for row in without.values():
        low, high = row["interval"]
        assert low <= row["change"] <= high
        assert row["verdict"] in ("carries", "helps", "idle", "hurts")
        assert row["largest_change_of_a_logit"] > 0
        assert 0 <= row["flips"] <= 1


def test_ablate_measures_what_is_named(place, capsys):
    line = words(place / "well", "ablate", "--data", place / "ten.jsonl")
    organs = answer(capsys, [*line, "--organs", "engram", "hrm"])["without"]
    assert [(row["organ"], row["layer"]) for row in organs] == [("engram", None), ("hrm", None)]
    layers = answer(capsys, [*line, "--layers", "2"])["without"]
    assert [(row["organ"], row["layer"]) for row in layers] == [("attention", 2), ("kuramoto", 2)]
    assert main([*line, "--organs", "engram"]) == 0
    assert "engram" in capsys.readouterr().out


def test_bad_input_is_one_sentence(place, capsys, tmp_path):
    ten = words(place / "well", "ablate", "--data", place / "ten.jsonl")
    assert "no organ 'colony'" in complaint(capsys, [*ten, "--organs", "colony"])
    assert "layer 3, and this model has layers 1 to 2" in complaint(capsys, [*ten, "--layers", "3"])
    assert "layer 0" in complaint(capsys, [*ten, "--layers", "0"])
    one = words(place / "well", "ablate", "--data", place / "one.txt")
    assert "holds 1 document, and an interval needs 8" in complaint(capsys, one)
    assert "no checkpoint" in complaint(capsys, words(tmp_path / "none", "health"))
    assert "--max-bytes is 0" in complaint(capsys, words(place / "well", "health", "--max-bytes", 0))
    lost = words(place / "new", "health", "--max-bytes", 300, "--out", tmp_path / "no" / "page.html")
    assert "cannot be written" in complaint(capsys, lost)
