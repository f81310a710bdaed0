"""The folder of a LoRA run: killed at any point it goes on; what is half a checkpoint is no checkpoint; one writer."""

import json
import logging
import math
import os
import resource
import shutil
import signal
import zipfile

import pytest
import torch
from hf_example import MODELS

pytest.importorskip("peft")

from safetensors.torch import load_file

from positronic.adapters.lora import LoRAConfig, read_settings, tune
from positronic.adapters.lora_folder import LoRAFolder
from positronic.checkpoint import RunFolder, save
from positronic.cli import main
from positronic.errors import CheckpointError, ConfigError, TrainingError
from positronic.text import byte_tokenizer

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    control = save(folder / "model", MODELS["control"].speaking(), byte_tokenizer())
    chats = folder / "chats.jsonl"
    chats.write_text(
        "".join(json.dumps({"question": f"{n}?", "answer": f"It is {n}."}) + "\n" for n in range(256)), "utf-8"
    )
    return LoRAConfig(
        model=str(control), data=(str(chats),), steps=6, batch_tokens=256, seq_len=64, checkpoint_every=2, lr=1e-2
    )


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    tune(settings, out, device="cpu")
    return out


@pytest.fixture
def stopped(settings, tmp_path):
    """A run that was killed after step 4, its only checkpoint, while that of step 6 was written."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        publish = LoRAFolder.publish
        patch.setattr(LoRAFolder, "publish", lambda run, step: publish(run, step) if step < 6 else killed())
        with pytest.raises(KeyboardInterrupt):
            tune(settings, out, device="cpu")
    assert sorted(os.listdir(out)) == [".saving", "checkpoint-4", "lora.json"]
    return out


def killed(*args, **kwargs):
    raise KeyboardInterrupt


def adapter(out):
    return load_file(out / "adapter_model.safetensors")


def same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_leaves_one_checkpoint_and_nothing_half_done(whole):
    assert {"checkpoint-6", "lora.json", "adapter_model.safetensors"} <= set(os.listdir(whole))
    assert [name for name in os.listdir(whole) if name.startswith(".") or name == "checkpoint-4"] == []
    assert set(FILES) <= set(os.listdir(whole / "checkpoint-6"))


def test_killed_while_a_checkpoint_is_written_it_goes_on_from_the_one_before(settings, stopped, whole):
    tune(read_settings(stopped), stopped, go_on=True, device="cpu")
    assert same(adapter(stopped), adapter(whole))
    assert sorted(os.listdir(stopped)) == sorted(os.listdir(whole))


@pytest.mark.parametrize("at", ["the rename", "the deletion of the one before"])
def test_killed_while_a_checkpoint_takes_its_place_nothing_is_lost(settings, tmp_path, whole, monkeypatch, at):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        if at == "the rename":
            rename = os.rename
            patched.setattr(os, "rename", lambda a, b: killed() if str(b).endswith("checkpoint-4") else rename(a, b))
        else:
            rmtree = shutil.rmtree
            patched.setattr(shutil, "rmtree", lambda p, **k: killed() if ".gone" in str(p) else rmtree(p, **k))
        with pytest.raises(KeyboardInterrupt):
            tune(settings, out, device="cpu")
    tune(settings, out, go_on=True, device="cpu")
    assert same(adapter(out), adapter(whole))
    assert sorted(os.listdir(out)) == sorted(os.listdir(whole))


HALVES = {
    "empty": lambda folder: None,
    "an adapter alone": lambda folder: shutil.copy(folder.parent / "checkpoint-4" / FILES[0], folder),
    "no state": lambda folder: [shutil.copy(folder.parent / "checkpoint-4" / name, folder) for name in FILES[:-1]],
    "another step's state": lambda folder: [
        shutil.copy(folder.parent / "checkpoint-4" / name, folder) for name in FILES
    ],
}


@pytest.mark.parametrize("half", HALVES)
def test_half_a_checkpoint_is_set_aside_and_the_last_whole_one_is_used(stopped, whole, caplog, half):
    (stopped / "checkpoint-5").mkdir()
    HALVES[half](stopped / "checkpoint-5")
    with caplog.at_level(logging.WARNING):
        tune(read_settings(stopped), stopped, go_on=True, device="cpu")
    assert "checkpoint-5 is half a checkpoint and was set aside; the run goes on from" in caplog.text
    assert same(adapter(stopped), adapter(whole))
    assert sorted(os.listdir(stopped)) == sorted(os.listdir(whole))


@pytest.mark.parametrize("go_on", [True, False], ids=["--resume", "typed again"])
def test_an_empty_checkpoint_alone_is_none(settings, tmp_path, whole, go_on):
    out = tmp_path / "run"
    (out / "checkpoint-4").mkdir(parents=True)
    tune(settings, out, go_on=go_on, device="cpu")
    assert same(adapter(out), adapter(whole))
    assert not (out / "checkpoint-4").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


HARMS = {
    "missing": lambda path: path.unlink(),
    "cut short": cut,
    "empty": lambda path: path.write_bytes(b""),
    "another file": lambda path: path.write_bytes(b"[" * 100_000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_named_in_a_sentence_and_the_command_typed_again_begins_anew(stopped, capsys, name, harm):
    HARMS[harm](stopped / "checkpoint-4" / name)
    before = sorted(os.listdir(stopped / "checkpoint-4"))
    assert main(["lora", "--resume", "--out", str(stopped), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert f"checkpoint-4/{name}" in said
    assert "begin again without --resume" in said
    assert sorted(os.listdir(stopped / "checkpoint-4")) == before, "a refusal deletes nothing"


@pytest.mark.parametrize("name", FILES[1:4])
def test_a_flipped_bit_in_an_archive_is_noticed(stopped, name):
    """In any of its parts; what fills the gaps between them is read by nobody."""
    path = stopped / "checkpoint-4" / name
    with zipfile.ZipFile(path) as archive:
        part = max((archive.read(name) for name in archive.namelist()), key=len)
    flip(path, path.read_bytes().index(part) + len(part) // 2)
    with pytest.raises(CheckpointError, match=f"{name} is missing or damaged"):
        tune(read_settings(stopped), stopped, go_on=True, device="cpu")


def test_the_command_typed_again_begins_anew_where_no_checkpoint_is_whole(settings, stopped, whole):
    cut(stopped / "checkpoint-4" / "optimizer.pt")
    tune(settings, stopped, device="cpu")
    assert same(adapter(stopped), adapter(whole))


def test_a_whole_checkpoint_is_not_written_over(settings, stopped):
    with pytest.raises(ConfigError, match=r"holds a run already, up to .*checkpoint-4"):
        tune(settings, stopped, device="cpu")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"kind": "lora", "rank": ' + "[" * 600 + "]" * 600 + "}", "[]", "\0", "{"]
)
def test_settings_that_cannot_be_read_are_one_sentence(stopped, capsys, text):
    (stopped / "lora.json").write_text(text)
    assert main(["lora", "--resume", "--out", str(stopped), "--device", "cpu"]) == 2
    assert "lora.json" in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("memory", [False, True], ids=["weights", "optimizer"])
def test_what_is_not_finite_is_never_written_and_the_last_sound_one_is_named(settings, tmp_path, whole, value, memory):
    out, ruin = tmp_path / "run", Ruins(value, memory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("positronic.adapters.lora.peft.get_peft_model", ruin.watch)
        with pytest.raises(TrainingError, match=r"After step \d .* is not finite.*checkpoint-2, is sound.*--lr"):
            tune(settings, out, device="cpu", observer=ruin)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (out / "adapter_model.safetensors").exists()
    assert all(t.isfinite().all() for t in load_file(out / "checkpoint-2" / "adapter_model.safetensors").values())


class Ruins:
    """Writes a number into a weight, or into its gradient so that the optimizer remembers it, after step 3."""

    def __init__(self, value, memory):
        self.value, self.memory = value, memory

    def watch(self, model, config):
        import peft

        self.model = peft.PeftModelForCausalLM(model, config)
        return self.model

    def step(self, event):
        if event["step"] == 3:
            weight = next(p for name, p in self.model.named_parameters() if "lora_B" in name)
            with torch.no_grad():
                if self.memory:
                    weight.register_hook(lambda gradient: gradient * self.value)
                else:
                    weight[0, 0] = self.value

    def evaluation(self, event):
        pass

    checkpoint = evaluation

    def close(self):
        pass


def test_a_second_run_is_refused_with_the_number_of_the_first(settings, tmp_path):
    out, said = tmp_path / "run", tmp_path / "said"
    child = os.fork()
    if child == 0:
        with RunFolder(out).held():
            said.write_text("held")
            signal.pause()
    while not said.exists():
        pass
    try:
        with pytest.raises(CheckpointError, match=f"Process {child} is writing to {out}"):
            tune(settings, out, device="cpu")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(settings, stopped, whole):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sizes = {name: (stopped / "checkpoint-4" / name).stat().st_size for name in FILES}
    try:
        for limit in sorted({100, 4096, *(size - 1 for size in sizes.values())}):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(CheckpointError, match=r"could not be written.*checkpoint-4, is sound.*--resume"):
                tune(read_settings(stopped), stopped, go_on=True, device="cpu")
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    tune(read_settings(stopped), stopped, go_on=True, device="cpu")
    assert same(adapter(stopped), adapter(whole))
