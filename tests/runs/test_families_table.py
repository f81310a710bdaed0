"""The table of all families says what runs and kept weights say, and scores nothing twice."""

import json

import families
import pytest

from positronic.checkpoint import load, save
from positronic.eval import benchmark, open_task
from positronic.models import build, preset
from positronic.text import byte_tokenizer

SENTENCES = {"agreement": [("The dogs bark.", "The dogs barks."), ("A dog barks.", "A dog bark.")]}
SENTENCES["binding"] = [("Ann saw herself.", "Ann saw himself.")]


def run_of(model, parameters, seed, bits, tokens=40e6):
    return {
        "command": f"train {model} --seed {seed}",
        "model": model,
        "seed": seed,
        "parameters": parameters,
        "device": {"device": "a machine"},
        "note": "six side by side" if seed else "alone on the device",
        "training": {"tokens": tokens, "speed": {"tokens_per_s": 1000.0 + seed}},
        "scores": {"novels": {"bits_per_byte": bits + 1}, "blend": {"bits_per_byte": bits}},
    }


@pytest.fixture
def place(tmp_path):
    """A small model kept, two seeds of its run, a larger one of which nothing was kept, and benchmarks."""
    model = build(preset("tinygpt-tiny").replace(vocab_size=384, d_model=32, n_layers=1, context=64), 1)
    save(tmp_path / "small-bf16", model, byte_tokenizer())
    runs = {"a/small-seed0": run_of("small", 7_000, 0, 1.5), "a/small-seed1": run_of("small", 7_000, 1, 1.7)}
    runs |= {"b/large-seed0": run_of("large", 9_000, 0, 1.25), "b/large-inside": {"inside": "large"}}
    runs |= {"b/hasty-seed0": run_of("hasty", 8_000, 0, 1.0) | {"excerpt": 100}}
    for name, run in runs.items():
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(run), "utf-8")
    (tmp_path / "eval" / "blimp").mkdir(parents=True)
    for name, pairs in SENTENCES.items():
        rows = [json.dumps({"sentence_good": good, "sentence_bad": bad}) for good, bad in pairs]
        (tmp_path / "eval" / "blimp" / f"{name}.jsonl").write_text("\n".join(rows), "utf-8")
    words = [json.dumps({"context": f"Dog {n} has a", "continuation": "bone"}) for n in range(4)]
    (tmp_path / "eval" / "lambada_dev.jsonl").write_text("\n".join(words), "utf-8")
    return tmp_path


def table(place, *more):
    """The page's rows by their first cell, those of its first table first."""
    words = ["--results", place / "results", "--out", place / "families", "--device", "cpu", *more]
    families.main([str(word) for word in words])
    lines = (place / "families.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in reversed(rows)}


def test_the_page_joins_runs_with_what_their_weights_score(place):
    rows = table(place, "--kept", place / "small-bf16", "--eval", place / "eval")
    found = {name: benchmark(*load(place / "small-bf16"), open_task(name, place / "eval")) for name in families.TASKS}
    blimp, words = found["blimp"].whole.metrics, found["lambada"].whole.metrics
    assert rows["small"][:3] == ["7,000", "40 M", "1.6000 ± 0.1000"]
    assert rows["small"][3] == f"{blimp['acc'].value:.4f}", "one pair of a paradigm: no error is known"
    assert rows["small"][5].startswith(f"{words['perplexity'].value:,.0f} ± ")
    assert rows["large"] == ["9,000", "40 M", "1.2500", "-", "-", "-", "1,000", "a machine"]
    assert rows["small"][6] == "1,000 (shared)", "one of its runs was not alone"
    assert "hasty" not in rows, "scored on excerpts"
    assert rows["novels"] == ["2.2500", "2.6000 ± 0.1000"], "the largest model stands first"
    agreement = found["blimp"].parts["agreement"].metrics["acc"]
    assert rows["agreement"] == [f"{agreement.value:.3f} ± {agreement.stderr:.3f}"]


def test_what_is_scored_is_not_scored_again_unless_asked(place, monkeypatch):
    first = table(place, "--kept", place / "small-bf16", "--eval", place / "eval")
    stored = json.loads((place / "families" / "small-tasks.json").read_text("utf-8"))
    asked = []
    monkeypatch.setattr(families, "scored", lambda name, *_: asked.append(name) or stored)
    assert table(place, "--kept", place / "small-bf16", "--eval", place / "eval") == first
    assert table(place) == first
    assert asked == []
    table(place, "--kept", place / "small-bf16", "--eval", place / "eval", "--again")
    assert asked == ["small"]


def test_weights_without_a_run_and_runs_of_two_lengths_are_refused(place, capsys):
    (place / "small-bf16").rename(place / "other-bf16")
    with pytest.raises(SystemExit):
        table(place, "--kept", place / "other-bf16", "--eval", place / "eval")
    assert "of a model 'other'; there are large, small" in capsys.readouterr().err
    longer = run_of("small", 7_000, 2, 1.2, tokens=80e6)
    (place / "results" / "a" / "small-seed2.json").write_text(json.dumps(longer), "utf-8")
    with pytest.raises(SystemExit, match="another number of tokens than other runs of small"):
        table(place)
