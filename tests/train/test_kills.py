"""Killed again and again, at random instants and at calls that rename, link and delete, a run leaves the same folder.

Every family, both optimizers, tuning on conversations, on pairs and by thin matrices: links, step folders and what is
said about the steps included.
"""

import importlib.util
import json

import pytest
from killing import Server, kill_to_the_end, told

STEPS, SEED = 8, 20
SMALL = ["context=64", "max_positions=80", "attention.n_heads=2", "attention.n_kv_heads=1", "attention.head_dim=16"]
SMALL += ["attention.rank=none", "attention.rope_dims=8", "channel.hidden=32", "d_model=32", "n_layers=1"]
OFTEN = ["--batch-tokens", "128", "--checkpoint-every", "2", "--evaluate-every", "1", "--steps", str(STEPS)]
LOOP = ["context=64", "n_layers=4", "prelude=0", "coda=0", 'pattern=["GD","XM","TM","SK"]', "channel.hidden=32"]
LOOP += ["experts.hidden=16", "titans.slots=4", "titans.memory.chunk=16"]
FAMILIES = {
    "control": ["--model", "tinygpt-tiny", "--set", *SMALL],
    "rings": ["--model", "positronic-tiny", "--set", "context=64", "n_layers=1"],
    "colony": ["--model", "mycel-tiny", "--set", "context=64", "n_layers=1"],
    "metric": ["--model", "moa-tiny", "--set", "context=64", "n_layers=1"],
    "loop": ["--model", "chimera-tiny", "--set", *LOOP],
}
TEXT = "".join(f"Lamp {n} of the street was lit at {n % 12} o'clock.\n\n" for n in range(400))
CHATS = "".join(json.dumps({"instruction": f"add {n}", "output": f"{n} and {n}"}) + "\n" for n in range(300))
PAIRS = "".join(json.dumps({"prompt": f"{n}?", "chosen": f"{n}.", "rejected": "go away"}) + "\n" for n in range(300))
NEEDS_PEFT = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="LoRA needs PEFT")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, tokenizer and a model to tune, and who runs commands there."""
    folder = tmp_path_factory.mktemp("kills")
    for name, text in (("text.txt", TEXT), ("chats.jsonl", CHATS), ("pairs.jsonl", PAIRS)):
        (folder / name).write_text(text, "utf-8")
    server = Server(folder / "cache")
    made = server.run(["tokenizer", "train", "--kind", "bytes", "--out", str(folder / "tok")])
    assert made["code"] == 0, made["err"]
    found = server.run([*train(folder, "control"), "--steps", "1", "--out", str(folder / "base")])
    assert found["code"] == 0, found["err"]
    yield folder, server
    server.close()


def train(folder, family, optimizer="adamw"):
    words = ["train", *FAMILIES[family], "--data", str(folder / "text.txt"), "--tokenizer", str(folder / "tok")]
    return [*words, "--optimizer", optimizer, "--device", "cpu", *OFTEN]


def tune(folder, command):
    data = folder / ("pairs.jsonl" if command == "dpo" else "chats.jsonl")
    words = [command, "--model", str(folder / "base" / "last"), "--data", str(data), "--device", "cpu"]
    if command == "lora":
        return [*words, "--batch-tokens", "128", "--steps", str(STEPS), "--checkpoint-every", "2", "--rank", "2"]
    return [*words, *OFTEN]


CASES = {f"{family}-{optimizer}": (train, family, optimizer) for family in FAMILIES for optimizer in ("adamw", "muon")}
CASES |= {command: (tune, command) for command in ("sft", "dpo", "lora")}
QUICK = {"control-adamw": 3}
"""Kills of the cases that the fast tests run too."""


def cases(kills: int):
    for name in CASES:
        yield pytest.param(name, kills, id=name, marks=[pytest.mark.slow, *([NEEDS_PEFT] if name == "lora" else [])])
    for name, few in QUICK.items():
        yield pytest.param(name, few, id=f"{name}-quick")


@pytest.mark.parametrize(("name", "kills"), cases(kills=6))
def test_a_run_killed_again_and_again_leaves_the_folder_of_an_unbroken_one(place, tmp_path, name, kills):
    folder, server = place
    make, *settings = CASES[name]
    words = make(folder, *settings)
    whole = server.run([*words, "--out", str(tmp_path / "whole" / "run")])
    assert whole["code"] == 0, whole["err"]
    out = tmp_path / "broken" / "run"
    seed = SEED + list(CASES).index(name)
    print(f"seed {seed}")
    struck = kill_to_the_end(server, [*words, "--out", str(out)], out, kills, whole, seed)
    assert struck, "nothing was killed, so nothing is proved"
    ours, theirs = told(tmp_path / "whole" / "run"), told(out)
    assert sorted(theirs) == sorted(ours)
    assert [path for path in ours if theirs[path] != ours[path]] == []
    if name != "lora":
        assert ours["last"] == f"step-{STEPS:08d}"
        assert ours["best"] in ours


@pytest.mark.slow
def test_killed_at_any_call_that_changes_names_a_run_goes_on_to_the_same_folder(place, tmp_path):
    folder, server = place
    words = train(folder, "control")
    whole = server.run([*words, "--out", str(tmp_path / "whole" / "run")])
    ours = told(tmp_path / "whole" / "run")
    for at in range(1, whole["calls"] + 1):
        out = tmp_path / str(at) / "run"
        found = server.run([*words, "--out", str(out)], call=at, after=at % 2 == 0)
        assert found["killed"], at
        kill_to_the_end(server, [*words, "--out", str(out)], out, 0, whole, seed=0)
        theirs = told(out)
        assert sorted(theirs) == sorted(ours), at
        assert [path for path in ours if theirs[path] != ours[path]] == [], at
