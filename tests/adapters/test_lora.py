"""LoRA: silent when new, heard everywhere, exact on resume, and a checkpoint of ours once merged."""

import json
import sys
import time

import pytest
import torch
from hf_example import MODELS, rows

pytest.importorskip("peft")

from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import positronic
from positronic.adapters.lora import LoRAConfig, _rows, adapted, linear_maps, tune
from positronic.checkpoint import save
from positronic.cli import main
from positronic.errors import ConfigError
from positronic.text import byte_tokenizer


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    return save(tmp_path_factory.mktemp("lora") / "model", MODELS["control"].speaking(), byte_tokenizer())


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    lines = [{"question": f"{a} + {b}?", "answer": f"It is {a + b}."} for a in range(16) for b in range(16)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.fixture
def short(control, chats):
    return LoRAConfig(
        model=str(control), data=(str(chats),), steps=8, batch_tokens=256, seq_len=64, checkpoint_every=4, lr=1e-2
    )


def test_a_new_adapter_is_silent_and_every_thin_matrix_is_heard(folder):
    """What PEFT puts beside a matrix that is read and not applied would learn nothing; none such is offered."""
    plain = AutoModelForCausalLM.from_pretrained(folder)
    model = adapted(AutoModelForCausalLM.from_pretrained(folder), LoRAConfig(model=str(folder), data=()))
    tokens = rows(2, 48)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, plain(tokens).logits)
    model(tokens, labels=tokens).loss.backward()
    thin = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    assert len(thin) == len(linear_maps(plain.lm))
    assert not [name for name, p in thin.items() if p.grad is None or not p.grad.any()]
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)


def test_a_row_leaves_one_place_for_the_target_of_its_last_token(control, chats):
    model = MODELS["control"].config
    config = LoRAConfig(model=str(control), data=(str(chats),))
    held = model.replace(context=80, max_positions=80)
    assert _rows(config, held, None).seq_len == 79
    assert _rows(config, model.replace(context=40, max_positions=80), None).seq_len == 40


class Times:
    """Keeps what a run says of its steps."""

    def __init__(self):
        self.steps = []

    def step(self, event):
        self.steps.append(event)

    def checkpoint(self, event):
        pass

    def evaluation(self, event):
        pass

    def close(self):
        pass


def test_a_step_is_said_to_take_no_longer_than_the_run_has(short, tmp_path):
    times, began = Times(), time.monotonic()
    tune(short, tmp_path / "run", device="cpu", observer=times)
    passed = time.monotonic() - began
    assert len(times.steps) == 8
    assert all(256 / event["tokens_per_s"] <= passed for event in times.steps)
    assert all(event["left_s"] <= passed * (8 - event["step"]) for event in times.steps)


@pytest.mark.parametrize(("n", "at_once"), [(1, 1), (4, 4), (12, 6), (11, 1)])
def test_a_call_takes_as_many_rows_as_divide_a_step(short, tmp_path, n, at_once):
    tune(short.replace(steps=1, batch_tokens=64 * n), tmp_path / "run", device="cpu", observer=Times())
    said = json.loads((tmp_path / "run" / "checkpoint-1" / "trainer_state.json").read_text("utf-8"))
    assert said["train_batch_size"] == at_once


def test_targets_are_ends_of_names(control):
    model = AutoModelForCausalLM.from_pretrained(control)
    config = LoRAConfig(model=str(control), data=(), targets=("qkv", "1.mixer.down"))
    found = adapted(model, config).peft_config["default"].target_modules
    assert sorted(found) == ["model.trunk.0.mixer.qkv", "model.trunk.1.mixer.down", "model.trunk.2.mixer.qkv"]


def test_a_target_that_matches_nothing_names_what_there_is(control):
    model = AutoModelForCausalLM.from_pretrained(control)
    with pytest.raises(
        ConfigError, match=r"--targets q_proj matches no linear map .* end in 0, 1, down, gate, qkv, up"
    ):
        adapted(model, LoRAConfig(model=str(control), data=(), targets=("qkv", "q_proj")))


class StoppedError(Exception):
    pass


class StopsAtItsFirstCheckpoint:
    def step(self, event):
        pass

    evaluation = step

    def checkpoint(self, event):
        raise StoppedError

    def close(self):
        pass


def test_a_stopped_run_goes_on_to_the_same_adapter(short, tmp_path):
    tune(short, tmp_path / "whole", device="cpu")
    with pytest.raises(StoppedError):
        tune(short, tmp_path / "broken", device="cpu", observer=StopsAtItsFirstCheckpoint())
    assert (tmp_path / "broken" / "checkpoint-4").is_dir()
    assert not (tmp_path / "broken" / "adapter_model.safetensors").exists()
    with pytest.raises(ConfigError, match=r"holds a run already, up to .*checkpoint-4"):
        tune(short, tmp_path / "broken", device="cpu")
    tune(short, tmp_path / "broken", go_on=True, device="cpu")
    whole, broken = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


class Planted:
    """A pickle that opens a file for writing as it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_planted_pickle_is_not_run_on_resume(short, tmp_path, name, capsys):
    """Transformers keeps an optimizer's state as pickles; they are read as numbers alone, and other things refused."""
    out, marker = tmp_path / "run", tmp_path / "was run"
    with pytest.raises(StoppedError):
        tune(short, out, device="cpu", observer=StopsAtItsFirstCheckpoint())
    torch.save({"state": {0: Planted(marker)}, "param_groups": []}, out / "checkpoint-4" / name)
    assert main(["lora", "--resume", "--out", str(out), "--device", "cpu"]) == 2
    assert "checkpoint-4 would run code" in " ".join(capsys.readouterr().err.split())
    assert not marker.exists()


def test_the_planted_pickle_would_run_where_pickles_are_read(tmp_path):
    marker, path = tmp_path / "was run", tmp_path / "planted.pt"
    torch.save({"state": Planted(marker)}, path)
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_the_command_adapts_and_merges_into_a_checkpoint_of_ours(control, chats, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("POSITRONIC_CACHE", str(tmp_path / "cache"))
    out, device = tmp_path / "adapter", ["--device", "cpu", "--json"]
    words = ["lora", "--model", str(control), "--data", str(chats), "--steps", "12", "--batch-tokens", "512"]
    assert main([*words, "--lr", "1e-2", "--rank", "4", "--out", str(out), *device]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 12
    assert found["bits_per_byte"]["after"] < 0.8 * found["bits_per_byte"]["before"]
    adapter = (out / "adapter_model.safetensors").read_bytes()
    merging = ["lora", "--resume", "--out", str(out), "--merge", str(tmp_path / "merged"), *device]
    assert main(merging) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["bits_per_byte"] == found["bits_per_byte"]
    assert (out / "adapter_model.safetensors").read_bytes() == adapter
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-12"]
    assert main(merging) == 2
    assert "merged is there already" in capsys.readouterr().err
    merged, _ = positronic.load(tmp_path / "merged")
    both = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(control), out)
    with torch.no_grad():
        logits = both(rows(2, 24)).logits
        assert (merged.logits(merged(rows(2, 24)).hidden) - logits).abs().max() < 1e-4 * logits.abs().max()


def test_the_command_says_what_is_missing(control, chats, tmp_path, capsys, monkeypatch):
    def complaint(*words):
        assert main(["lora", "--out", str(tmp_path / "x"), *words]) == 2
        return capsys.readouterr().err

    given = ("--model", str(control), "--data", str(chats), "--device", "cpu")
    assert "--model FOLDER --data PATH" in complaint()
    assert "There is no adapter to go on with" in complaint("--resume")
    assert "rank 0" in complaint(*given, "--rank", "0")
    assert "matches no linear map" in complaint(*given, "--targets", "q_proj")
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.delitem(sys.modules, "positronic.adapters.lora")
    assert "pip install 'positronic[hf]'" in complaint(*given)
