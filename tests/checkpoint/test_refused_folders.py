"""What does not fit, is not there or cannot be held is refused in words, and nothing is ever unpickled."""

import ast
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_example import logits, parts, put_parts, small_model
from checkpoint_tokenizer import small_tokenizer
from mutations import rehash

import positronic
from positronic.checkpoint import TrainingPart, load, load_model, save
from positronic.checkpoint.manifest import Content, json_digest, seal
from positronic.checkpoint.tensors import digest
from positronic.errors import CheckpointError, ConfigError, DeviceError, TokenizerError

PACKAGE = Path(positronic.__file__).parent


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
            names = [name for name in names if name != "pickle.UnpicklingError"]  # what a library says when it refuses
            assert not {name for name in names if name in forbidden or name.split(".")[0] in forbidden}, path
