"""What is saved is what is loaded, to the bit; equal weights make equal files; every folder stands alone."""

import ast
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
from checkpoint_example import TOKENS, logits, parts, put_parts, small_config, small_model, training_part
from checkpoint_tokenizer import small_tokenizer
from mutations import rehash
from torch import nn

import positronic
from positronic import checkpoint
from positronic.checkpoint import TrainingPart, load, load_model, load_training, read_config, save
from positronic.checkpoint.manifest import Content, Sealed, json_digest, seal
from positronic.checkpoint.tensors import digest, write_tensors
from positronic.config import ModelConfig
from positronic.errors import CheckpointError, ConfigError, DeviceError, TokenizerError
from positronic.models import build
from positronic.nn import init

PACKAGE = Path(positronic.__file__).parent


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


def reseal(folder: Path, tokenizer) -> None:
    """A manifest that vouches for whatever lies in the folder, contents included."""
    config = json.loads((folder / "config.json").read_text())
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    content = Content(
        json_digest(config["core"]), tokenizer.sha256, {n: digest(n, t) for n, t in tensors.items()}, training=None
    )
    (folder / "manifest.json").unlink()
    seal(folder, content, {})


def test_names_with_the_prefix_of_a_transformers_wrapper_are_understood(copied, model, tokenizer):
    header, data = parts(copied / "model.safetensors")
    put_parts(copied / "model.safetensors", {f"model.{n}" if n[0] != "_" else n: e for n, e in header.items()}, data)
    reseal(copied, tokenizer)
    assert torch.equal(logits(load_model(copied)), logits(model))


def strange(header, data):
    header["stray"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
    return header, data


def renamed(header, data):
    header["embed.weights"] = header.pop("embed.weight")
    return header, data


def flattened(header, data):
    shape = header["embed.weight"]["shape"]
    header["embed.weight"]["shape"] = [shape[0] * shape[1]]
    return header, data


def retyped(header, data):
    header["embed.weight"]["dtype"] = "I32"
    return header, data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (strange, "has stray beyond it"),
        (renamed, r"lacks embed.weight and has embed.weights"),
        (flattened, r"embed.weight .* float32 \[6192\].* asks for float32 \[387, 16\]"),
        (retyped, r"embed.weight .* int32 \[387, 16\]"),
    ],
)
def test_weights_that_a_manifest_vouches_for_must_still_fit_the_config(copied, tokenizer, change, words):
    put_parts(copied / "model.safetensors", *change(*parts(copied / "model.safetensors")))
    reseal(copied, tokenizer)
    with pytest.raises(CheckpointError, match=words):
        load(copied)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_layers": 3}, CheckpointError, r"lacks trunk.4.mixer.*, .* and 7 more"),
        ({"d_model": 32}, CheckpointError, "asks for"),
        ({"dropout": 0.1}, ConfigError, "no field 'dropout'"),
        ({"kind": "hologram"}, ConfigError, "hologram"),
        ({"context": -1}, ConfigError, "context"),
    ],
)
def test_a_config_that_a_manifest_vouches_for_must_still_fit_the_weights(copied, tokenizer, change, error, words):
    config = json.loads((copied / "config.json").read_text())
    config["core"] |= change
    (copied / "config.json").write_text(json.dumps(config))
    reseal(copied, tokenizer)
    with pytest.raises(error, match=words):
        load(copied)


def test_another_tokenizer_is_named_by_both_hashes(copied, tokenizer):
    theirs = small_tokenizer(other=True)
    theirs.save(copied)
    rehash(copied)
    with pytest.raises(TokenizerError) as caught:
        load(copied)
    assert tokenizer.sha256 in str(caught.value)
    assert theirs.sha256 in str(caught.value)
    with pytest.raises(TokenizerError, match=r"\d+ entries"):
        save(copied.parent / "new", small_model(tokenizer.vocab_size + 1), tokenizer)


def test_newer_formats_ask_for_an_upgrade(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"format": 2, "new": 1}))
    with pytest.raises(CheckpointError, match="Upgrade positronic"):
        load(copied)


def test_places_that_hold_no_checkpoint_are_told_apart(saved, tmp_path):
    for place, words in [
        (tmp_path / "nowhere", "There is no checkpoint at"),
        (saved / "config.json", "is a file"),
        (tmp_path, "has no manifest.json"),
        ("\0", "There is no checkpoint at"),
        ("x" * 5000, "There is no checkpoint at"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            load(place)
    (tmp_path / "model.pt").write_bytes(b"")
    for place in (tmp_path, tmp_path / "model.pt"):
        with pytest.raises(CheckpointError, match="never unpickles"):
            load(place)


def test_devices_and_types_that_are_not_there_are_named(saved):
    with pytest.raises(DeviceError, match="warp"):
        load(saved, device="warp")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="cuda"):
            load(saved, device="cuda")
    with pytest.raises(DeviceError, match="int8"):
        load(saved, dtype=torch.int8)


@pytest.mark.parametrize(
    "meta", [{1: "integer key"}, {"a": [{"b": {2: 3}}]}, {"loss": float("nan")}, {"x": {1, 2}}, {"x": torch.ones(1)}]
)
def test_training_state_that_json_would_change_is_refused_before_anything_is_written(meta, model, tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match=r"training.meta.* text"):
        save(tmp_path / "new", model, tokenizer, TrainingPart({}, meta))
    assert not list(tmp_path.iterdir())


def test_types_without_a_name_in_the_format_are_refused(model, tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match="complex64"):
        save(tmp_path / "new", model, tokenizer, TrainingPart({"z": torch.zeros(2, dtype=torch.complex64)}))
    with pytest.raises(CheckpointError, match="int32"):
        save(tmp_path / "new", model, tokenizer, dtype=torch.int32)
    with pytest.raises(CheckpointError, match="shard_bytes"):
        save(tmp_path / "new", model, tokenizer, shard_bytes=0)


def test_nothing_in_the_package_can_unpickle():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            forbidden = {"pickle", "dill", "joblib", "shelve", "marshal", "torch.load"}
            assert not {name for name in names if name in forbidden or name.split(".")[0] in forbidden}, path


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
