"""What is saved is what is loaded, to the bit; equal weights make equal files; every folder stands alone."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_example import TOKENS, logits, parts, small_config, small_model, training_part
from torch import nn

import positronic
from positronic import checkpoint
from positronic.checkpoint import load, load_model, load_training, read_config, save
from positronic.checkpoint.manifest import Sealed
from positronic.checkpoint.tensors import digest, write_tensors
from positronic.config import ModelConfig
from positronic.errors import CheckpointError
from positronic.models import build
from positronic.nn import init


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_loaded_model_gives_the_same_logits_to_the_bit(saved, model, tokenizer):
    loaded, its_tokenizer = load(saved)
    assert torch.equal(logits(loaded), logits(model))
    assert its_tokenizer.sha256 == tokenizer.sha256
    assert not loaded.training
    assert loaded.config == read_config(saved) == model.config
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_public_load_is_this_one():
    assert positronic.load is checkpoint.load


def test_training_state_comes_back_to_the_bit(saved):
    back, was = load_training(saved), training_part()
    assert back.meta == was.meta
    assert back.tensors.keys() == was.tensors.keys()
    for name, tensor in was.tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)


def test_what_was_loaded_outlives_the_folder(copied, model):
    training, loaded = load_training(copied), load_model(copied)
    for path in copied.rglob("*.safetensors"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    assert torch.equal(training.tensors["rng.cpu"], training_part().tensors["rng.cpu"])
    assert torch.equal(logits(loaded), logits(model))


def test_equal_weights_give_equal_bytes_whatever_the_order_of_saving(saved, tokenizer, tmp_path):
    again = save(tmp_path / "again", small_model(tokenizer.vocab_size), tokenizer, training_part())
    assert files(again) == files(saved)
    assert {name: sha256(again / name) for name in files(again)} == {
        name: sha256(saved / name) for name in files(saved)
    }
    resaved = save(tmp_path / "resaved", load_model(saved), tokenizer)
    assert sha256(resaved / "model.safetensors") == sha256(saved / "model.safetensors")
    tensors = training_part().tensors
    write_tensors(tmp_path / "a", tensors)
    write_tensors(tmp_path / "b", dict(reversed(tensors.items())))
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_names_stand_sorted_in_the_file_and_the_library_reads_the_same_tensors(saved, model):
    header, _ = parts(saved / "model.safetensors")
    names = [name for name in header if name != "__metadata__"]
    assert names == sorted(model.state_dict())
    library = safetensors.torch.load_file(saved / "model.safetensors")
    assert all(torch.equal(library[name], tensor) for name, tensor in model.state_dict().items())
    mixed = safetensors.torch.load_file(saved / "train" / "state.safetensors")
    assert all(torch.equal(mixed[name], tensor) for name, tensor in training_part().tensors.items())


def test_shards_hold_what_the_single_file_holds(sharded, saved, model):
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all(len(parts(path)[1]) <= 4000 or len(parts(path)[0]) == 2 for path in shards)
    assert torch.equal(logits(load_model(sharded)), logits(model))
    contents = [json.loads((folder / "manifest.json").read_text())["content"] for folder in (sharded, saved)]
    assert contents[0] == contents[1]


def test_bfloat16_halves_the_file_and_rounds_every_parameter(saved, model, tokenizer, tmp_path):
    small = save(tmp_path / "small", model, tokenizer, dtype=torch.bfloat16)
    assert len(parts(small / "model.safetensors")[1]) * 2 == len(parts(saved / "model.safetensors")[1])
    assert json.loads((small / "config.json").read_text())["dtype"] == "bfloat16"
    wide, narrow = load_model(small), load_model(small, dtype=torch.bfloat16)
    for name, tensor in model.state_dict().items():
        assert torch.equal(wide.state_dict()[name], tensor.bfloat16().float())
        assert torch.equal(narrow.state_dict()[name], tensor.bfloat16())
    assert torch.equal(logits(load_model(small)), logits(wide))
    again = save(tmp_path / "again", narrow, tokenizer)
    assert sha256(again / "model.safetensors") == sha256(small / "model.safetensors")


class Buffered(nn.Module):
    """A model with a table that follows from its config, and with buffers that are saved."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("table", torch.zeros(4), persistent=False)
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(2))

    def reset_parameters(self):
        init.copy_(self.table, torch.arange(4) / 3)


@pytest.fixture
def buffered(tokenizer):
    @dataclass(frozen=True, kw_only=True)
    class BufferedConfig(ModelConfig, kind="test-buffered"):
        def build(self):
            return Buffered(self)

    yield build(BufferedConfig(vocab_size=tokenizer.vocab_size))
    del ModelConfig.registry["test-buffered"]


def test_tables_are_rebuilt_and_buffers_keep_their_type(buffered, tokenizer, tmp_path):
    buffered.weight.data += 1 / 3
    buffered.counts += 2**40
    buffered.mean += 1 / 3
    folder = save(tmp_path / "buffered", buffered, tokenizer, dtype=torch.bfloat16)
    assert set(parts(folder / "model.safetensors")[0]) - {"__metadata__"} == {"weight", "counts", "mean"}
    loaded = load_model(folder, dtype=torch.bfloat16)
    assert loaded.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.table, torch.arange(4) / 3), "never saved, never rounded"
    assert torch.equal(loaded.counts, buffered.counts)
    assert torch.equal(loaded.mean, buffered.mean), "dtype speaks of parameters"


def test_loading_draws_no_parameter_and_keeps_no_second_copy(saved, monkeypatch):
    filled = []
    original = torch.Tensor.normal_
    monkeypatch.setattr(torch.Tensor, "normal_", lambda *a, **k: filled.append(a) or original(*a, **k))
    held = {}

    def remembered(*args, **kwargs):
        model = build(*args, **kwargs)
        held.update({name: tensor.data_ptr() for name, tensor in model.state_dict().items()})
        return model

    monkeypatch.setattr(checkpoint.folder, "build", remembered)
    loaded = load_model(saved)
    assert not filled
    assert held == {name: tensor.data_ptr() for name, tensor in loaded.state_dict().items()}


def test_config_json_has_the_hugging_face_form(saved, model, tokenizer):
    config = json.loads((saved / "config.json").read_text())
    assert config["model_type"] == "positronic"
    assert config["architectures"] == ["PositronicForCausalLM"]
    assert config["vocab_size"] == tokenizer.vocab_size
    assert config["eos_token_id"] == [tokenizer.eot_id, tokenizer.im_end_id]
    assert config["dtype"] == "float32"
    assert config["core"] == json.loads(json.dumps(model.config.to_json()))


def test_the_manifest_names_every_file_and_who_wrote_it(saved, model, tokenizer, tmp_path):
    manifest = json.loads((saved / "manifest.json").read_text())
    assert set(manifest["files"]) == files(saved) - {"manifest.json"}
    assert all(record["sha256"] == sha256(saved / name) for name, record in manifest["files"].items())
    assert manifest["content"]["tensors"] == {name: digest(name, t) for name, t in model.state_dict().items()}
    assert manifest["content"]["tokenizer"] == tokenizer.sha256
    assert {"positronic", "torch", "python", "device", "threads", "commit"} == set(manifest["written_by"])
    dated = save(tmp_path / "dated", model, tokenizer, clock=lambda: 1.5e9)
    assert json.loads((dated / "manifest.json").read_text())["written_by"]["created_at"] == "2017-07-14T02:40:00+00:00"


def test_everyone_may_read_the_files(saved):
    assert {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in (saved, saved / "train")} == {0o755}


def test_a_copied_or_moved_folder_loads(saved, model, tmp_path):
    moved = shutil.copytree(saved, tmp_path / "with a space" / "naïve")
    assert torch.equal(logits(load_model(moved)), logits(model))


def test_weights_alone_are_enough_to_load(copied, model):
    shutil.rmtree(copied / "train")
    assert torch.equal(logits(load_model(copied)), logits(model))
    with pytest.raises(CheckpointError, match="missing"):
        load_training(copied)


def test_a_folder_saved_without_training_says_how_to_start_from_it(model, tokenizer, tmp_path):
    folder = save(tmp_path / "weights", model, tokenizer)
    with pytest.raises(CheckpointError, match="--init"):
        load_training(folder)


def test_a_checkpoint_knows_whether_all_its_files_are_there(copied):
    assert Sealed(copied).complete()
    with (copied / "train" / "state.json").open("a") as file:
        file.write(" ")
    assert not Sealed(copied).complete()


def test_another_process_loads_the_same_logits(saved, model, tmp_path):
    code = (
        "import sys, torch, positronic\n"
        "model, _ = positronic.load(sys.argv[1])\n"
        "tokens = torch.arange(24).reshape(2, 12)\n"
        "torch.set_num_threads(1)\n"
        "sys.stdout.buffer.write(model.logits(model(tokens).hidden).detach().numpy().tobytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, check=True)
    there = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).reshape(*TOKENS.shape, -1)
    torch.testing.assert_close(there, logits(model), rtol=0, atol=1e-6)  # threads may differ, hence not to the bit


def test_a_config_of_many_layers_is_saved_under_any_working_directory(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert save("here", model, tokenizer) == tmp_path / "here"
    assert load_model("here").config == small_config(tokenizer.vocab_size)
    assert os.listdir(tmp_path) == ["here"]
