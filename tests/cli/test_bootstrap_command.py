"""`bootstrap` begins the small recipe, and says in words what it cannot begin, or what a GPU does not have."""

import json
import re

import pytest

from one_thread import one_thread  # noqa: F401  (autouse here)
from positronic.cli import main
from positronic.cli.commands import bootstrap
from positronic.data.sources import embedded, tinystories
from positronic.recipes import read_run
from positronic.recipes.tiny import tiny_model, tiny_run

SMALL = {"d_model": 32, "context": 64, "n_layers": 1, "channel": {"kind": "swiglu", "hidden": 32}}
ATTENTION = {"kind": "attention", "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "rank": None, "rope_dims": 8}
TEXT = "The lamp on the desk was lit, and nobody had lit it.\n\nSomebody must have been here before us.\n\n" * 40


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, without a network, with a text and the config of a small model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSITRONIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    model = {"kind": "transformer", "attention": ATTENTION, "max_positions": 512, **SMALL}
    (tmp_path / "model.json").write_text(json.dumps(model), "utf-8")
    return tmp_path


def begin(*words, run="run"):
    return main(["bootstrap", "--out", run, "--model", "model.json", "--device", "cpu", *words])


def complaint(capsys, *words, run="run") -> str:
    assert begin(*words, run=run) == 2
    return capsys.readouterr().err


def test_the_recipe_is_the_one_that_was_asked_for(place):
    assert begin("--data", "text.txt", "--vocab-size", "390") == 0
    run = read_run("run")
    train, schedule, optimizer = run.train, run.train.schedule, run.train.optimizer
    assert (train.steps, run.model.context, train.checkpoint_every, train.clip) == (5000, 512, 200, 1.0)
    assert (schedule.shape, schedule.warmup) == ("cosine", 500)
    assert (optimizer.kind, optimizer.lr, optimizer.weight_decay) == ("adamw", 3e-4, 0.1)
    assert (place / "run" / "tokenizer" / "tokenizer.json").exists()


def test_the_default_is_the_control_with_a_vocabulary_of_16_thousand():
    command = bootstrap.Command()
    assert command._model().replace(context=1024) == tiny_model("attention", "15m").replace(context=1024)
    assert command._model().vocab_size == 16_512
    assert tiny_run(command._model(), ["text"], batch_tokens=16_384).model.kind == "transformer"


def test_a_vocabulary_that_stands_is_kept_and_another_refused(place, capsys):
    assert begin("--data", "text.txt", "--vocab-size", "390", "--seed", "1") == 0
    (place / "run").rename(place / "old")
    (place / "run").mkdir()
    (place / "old" / "tokenizer").rename(place / "run" / "tokenizer")
    assert "Delete that folder" in complaint(capsys, "--data", "text.txt", "--vocab-size", "391")
    assert begin("--data", "text.txt", "--vocab-size", "390") == 0
    assert "stands, 390 entries" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "empty"), ("One line.", "too short"), (TEXT, r"at most \d+ entries")],
)
def test_text_that_is_empty_or_short_or_too_poor_for_the_vocabulary_is_refused(place, capsys, text, said):
    (place / "text.txt").write_text(text, "utf-8")
    assert re.search(said, complaint(capsys, "--data", "text.txt", "--vocab-size", "5000"))
    assert not list((place / "run").glob("step-*"))


def test_short_stories_may_be_all_that_is_held_out(place):
    stories = "<|endoftext|>\n".join(f"Story {n}. The lamp was lit, and nobody had lit it." for n in range(2000))
    (place / "text.txt").write_text(stories, "utf-8")
    assert begin("--data", "text.txt", "--vocab-size", "390") == 0


def test_settings_that_a_run_was_not_begun_with_are_named(place, capsys):
    assert begin("--data", "text.txt", "--vocab-size", "390") == 0
    said = complaint(capsys, "--data", "text.txt", "--vocab-size", "391", "--lr", "0.1")
    assert "vocabulary: 390 -> 391" in said
    assert "lr" in said
    assert begin() == 0, "what is not given is not compared"


def test_no_network_and_no_data_says_the_three_ways(place, capsys, monkeypatch):
    asked = complaint(capsys, "--data", "tinystories")
    monkeypatch.setattr(embedded, "gather", lambda folder: (0, 0))
    nothing = complaint(capsys)
    for way in ("pip install datasets", "DATA=my-text/", "DATA=embedded"):
        assert way in asked
        assert way in nothing
    assert not (place / "run" / "text" / "embedded").exists()


def test_a_network_that_does_not_answer_is_a_reason(monkeypatch):
    def refused(*_, **__):
        raise OSError("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(tinystories, "find_spec", lambda name: object())
    monkeypatch.setattr(tinystories.urllib.request, "urlopen", refused)
    assert "does not answer (no route)" in (tinystories.out_of_reach() or "")


def test_an_operation_that_mps_lacks_is_named_with_what_to_do(place, capsys, monkeypatch):
    def lacking(self):
        raise NotImplementedError("The operator 'aten::kuramoto' is not currently implemented for the MPS device.")

    monkeypatch.setattr(bootstrap.Command, "run", lacking)
    said = complaint(capsys)
    assert "does not have aten::kuramoto" in said
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in said
    assert "--device cpu" in said
