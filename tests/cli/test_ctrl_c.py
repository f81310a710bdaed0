"""Ctrl-C in a command that trains: what was learned is kept, the way on is said, and the exit code is 130."""

import json
import os
import signal

import pytest

import positronic.train
from positronic.cli import main
from positronic.train import Observer

SMALL = ["d_model=32", "n_layers=1", "attention.n_heads=2", "attention.n_kv_heads=1", "attention.head_dim=16"]
SMALL += ["attention.rank=none", "attention.rope_dims=8", "channel.hidden=32", "context=64", "max_positions=64"]
DATA = {
    "train": "Nobody had lit the lamp.\n\n" * 200,
    "sft": "".join(json.dumps({"instruction": f"count to {i}", "output": f"{i}"}) + "\n" for i in range(200)),
    "dpo": "".join(
        json.dumps({"prompt": f"to {i}", "chosen": f"{i}.", "rejected": "go away"}) + "\n" for i in range(200)
    ),
}


class Interrupts(Observer):
    """Presses Ctrl-C when the second step is done."""

    def step(self, event):
        if event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctrl-c")
    for command, text in DATA.items():
        (folder / f"{command}.{'txt' if command == 'train' else 'jsonl'}").write_text(text, "utf-8")
    assert main(["tokenizer", "train", "--kind", "bytes", "--out", str(folder / "tok")]) == 0
    assert main([*begin(folder, "train", "base"), "--steps", "1", "--set", *SMALL]) == 0
    return folder


def begin(folder, command, out):
    data = next(folder.glob(f"{command}.*"))
    words = [command, "--data", str(data), "--out", str(folder / out), "--device", "cpu", "--batch-tokens", "128"]
    if command == "train":
        return [*words, "--model", "tinygpt-tiny", "--tokenizer", str(folder / "tok")]
    return [*words, "--model", str(folder / "base" / "last")]


@pytest.mark.parametrize("command", DATA)
def test_a_run_that_is_stopped_is_kept_and_ends_with_130(command, place, monkeypatch, capsys):
    monkeypatch.setenv("POSITRONIC_CACHE", str(place / "cache"))
    words = [*begin(place, command, command), "--steps", "4", *(["--set", *SMALL] if command == "train" else [])]
    with monkeypatch.context() as patched:
        patched.setattr(positronic.train, "progress", Interrupts)
        assert main(words) == 130
    assert f"positronic {command} --resume" in capsys.readouterr().err
    assert (place / command / "last").resolve().name == "step-00000002"
    assert main([command, "--resume", "--out", str(place / command), "--device", "cpu"]) == 0
    assert (place / command / "last").resolve().name == "step-00000004"
