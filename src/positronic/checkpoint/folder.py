"""Checkpoints: a model, its tokenizer and, if training goes on, what that needs, in one folder.

    config.json  tokenizer.json  tokenizer_config.json  chat_template.jinja  generation_config.json
    model.safetensors            or shards model-00001-of-00003.safetensors, ... and model.safetensors.index.json
    train/state.safetensors  train/state.json                                (optional)
    manifest.json                what all of these must be (see `manifest.py`)

A folder appears whole or not at all, loading is strict, and nothing is ever unpickled.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from positronic.checkpoint import form
from positronic.checkpoint.atomic import appearing, standing
from positronic.checkpoint.manifest import (
    MANIFEST,
    Content,
    Sealed,
    TrainingContent,
    json_digest,
    seal,
    write_json,
)
from positronic.checkpoint.provenance import written_by
from positronic.checkpoint.reading import PICKLE_SUFFIXES, refuse_pickle
from positronic.checkpoint.tensors import header, read_tensors, write_tensors
from positronic.checkpoint.weights import StoredWeights, weight_bytes, write_weights
from positronic.config import ModelConfig
from positronic.errors import CheckpointError, DeviceError, TokenizerError
from positronic.lm import LM
from positronic.models import build

if TYPE_CHECKING:
    from positronic.text import Tokenizer

__all__ = ["SHARD_BYTES", "TrainingPart", "load", "load_model", "load_training", "read_config", "read_weights", "save"]

SHARD_BYTES = 5 * 10**9
"""Weights beyond this are cut into several files."""
CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
TRAIN, TRAIN_TENSORS, TRAIN_META = "train/", "train/state.safetensors", "train/state.json"


@dataclass(frozen=True)
class TrainingPart:
    """What going on needs beyond the weights: optimizer, schedule, data position, random streams, counters."""

    tensors: Mapping[str, Tensor]
    """Tensors by any name."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Everything else, as JSON values."""


def save(
    folder: str | os.PathLike[str],
    model: LM,
    tokenizer: "Tokenizer",
    training: TrainingPart | None = None,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    clock: Callable[[], float] | None = None,
) -> Path:
    """Write a checkpoint to `folder`, replacing the one that stood there; on any error that one still stands.

    dtype: of the stored parameters, all of them (norms and scalars too); None: as they are. `clock`, seconds since
    1970, dates the manifest; without it equal weights give equal folders. The same weights always give the same bytes.
    """
    target = Path(os.path.abspath(folder))
    _may_replace(target)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise TokenizerError(
            f"The tokenizer has {tokenizer.vocab_size} entries and the model {model.config.vocab_size}; "
            f"save the model with the tokenizer it was trained with."
        )
    module = _module(model)
    try:
        with appearing(target) as new:
            _write(new, model, tokenizer, training, dtype, shard_bytes, clock)
    except OSError as error:
        needed = weight_bytes(module, dtype) + (sum(t.nbytes for t in training.tensors.values()) if training else 0)
        raise CheckpointError(
            f"{target} could not be written: {error.strerror or error}. What stood there before and every earlier "
            f"checkpoint still stand; make {target.parent} writable with {needed / 2**20:.1f} MiB free and save again."
        ) from error
    return target


def load(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> "tuple[LM, Tokenizer]":
    """The model, in eval mode, and the tokenizer of a checkpoint; whatever is not as it was saved raises an error.

    dtype: of the parameters, float32 by default whatever they were stored as. `train/` is neither read nor needed.
    """
    sealed = _open(folder)
    config = _config(sealed)
    tokenizer = _tokenizer(sealed, config)
    return _model(sealed, config, device, dtype), tokenizer


def load_model(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> LM:
    """The model alone, as `load` gives it."""
    sealed = _open(folder)
    return _model(sealed, _config(sealed), device, dtype)


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The core config of a checkpoint."""
    return _config(_open(folder))


def read_weights(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights alone, on the CPU as they were stored: for a model of another config that shares some of them."""
    return {name: values.clone() for name, values in StoredWeights(_open(folder))}


def load_training(folder: str | os.PathLike[str]) -> TrainingPart:
    """What `save` was given as `training`, on the CPU; JSON turns its tuples into lists."""
    sealed = _open(folder)
    content = sealed.manifest.content.training
    if content is None:
        raise CheckpointError(
            f"{sealed.folder} holds weights only, nothing to go on training from. Start a new run from its weights "
            f"with --init {folder}."
        )
    refuse_pickle(sealed.folder / TRAIN_TENSORS)
    path = sealed.path(TRAIN_TENSORS)
    names = sorted(header(path))
    meta = sealed.json(TRAIN_META)
    if not isinstance(meta, dict) or json_digest(meta) != content.meta or names != sorted(content.tensors):
        raise CheckpointError(
            f"{sealed.folder / TRAIN} is not the training state that was saved with these weights. Resume from another "
            f"checkpoint of the run."
        )
    return TrainingPart({name: values.clone() for name, values in read_tensors(path, content.tensors, names)}, meta)


def _write(
    new: Path,
    model: LM,
    tokenizer: "Tokenizer",
    training: TrainingPart | None,
    dtype: torch.dtype | None,
    shard_bytes: int,
    clock: Callable[[], float] | None,
) -> None:
    module = _module(model)
    device = next(module.parameters()).device
    stored = dtype or next(module.parameters()).dtype
    tokenizer.save(new)
    write_json(new / CONFIG, form.config_json(model.config, tokenizer, stored))
    write_json(new / GENERATION, form.generation_json(tokenizer))
    tensors = write_weights(new, module, dtype, shard_bytes)
    trained = None
    if training is not None:
        (new / TRAIN).mkdir()
        write_json(new / TRAIN_META, training.meta)
        trained = TrainingContent(json_digest(training.meta), write_tensors(new / TRAIN_TENSORS, training.tensors))
    content = Content(json_digest(model.config.to_json()), tokenizer.sha256, tensors, trained)
    seal(new, content, written_by(device, clock))


def _may_replace(target: Path) -> None:
    """Only a checkpoint of ours or an empty folder gives way to a new one."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise CheckpointError(f"{target} is a file or a link and no folder. Give the checkpoint another name.")
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise CheckpointError(f"{target} holds other files and no checkpoint. Give the checkpoint another name.")


def _open(folder: str | os.PathLike[str]) -> Sealed:
    path = standing(Path(folder))
    if os.path.isfile(path):
        refuse_pickle(path)
        raise CheckpointError(f"{path} is a file; a checkpoint is a folder. Give the folder that holds {MANIFEST}.")
    if not os.path.isdir(path):
        raise CheckpointError(f"There is no checkpoint at {path}. Give a folder that `save` or a training run wrote.")
    if not os.path.exists(path / MANIFEST):
        if os.path.isdir(path / "last"):
            raise CheckpointError(f"{path} is a run and no checkpoint. Give {path / 'last'}, its newest.")
        for found in sorted(path.iterdir()):
            if found.suffix in PICKLE_SUFFIXES:
                refuse_pickle(found)
        raise CheckpointError(
            f"{path} has no {MANIFEST}: it is no checkpoint of ours, or was copied in part. Give a folder that `save` "
            f"or a training run wrote."
        )
    return Sealed(path)


def _config(sealed: Sealed) -> ModelConfig:
    where = str(sealed.folder / CONFIG)
    core = form.core_of(sealed.json(CONFIG), where)
    if json_digest(core) != sealed.manifest.content.config:
        ModelConfig.from_json(core, where)  # says it better, if it is no config at all
        raise CheckpointError(
            f"{where} is not the config these weights were saved with. Restore it; to build another model from them, "
            f"start a run with --init {sealed.folder}."
        )
    return ModelConfig.from_json(core, where)


def _tokenizer(sealed: Sealed, config: ModelConfig) -> "Tokenizer":
    for name in {TOKENIZER, *sealed.manifest.files}:
        if not name.startswith(TRAIN) and not name.endswith(".safetensors"):
            sealed.path(name)
    from positronic.text import Tokenizer

    tokenizer = Tokenizer.load(sealed.folder)
    if tokenizer.sha256 != sealed.manifest.content.tokenizer:
        raise TokenizerError(
            f"The tokenizer in {sealed.folder} has hash {tokenizer.sha256}, and the weights were trained with "
            f"{sealed.manifest.content.tokenizer}. Put the tokenizer back that was saved with them."
        )
    if tokenizer.vocab_size != config.vocab_size:
        raise TokenizerError(
            f"The tokenizer in {sealed.folder} has {tokenizer.vocab_size} entries and its model {config.vocab_size}. "
            f"Put the tokenizer back that was saved with the weights."
        )
    return tokenizer


def _model(sealed: Sealed, config: ModelConfig, device: str | torch.device, dtype: torch.dtype | None) -> LM:
    device, dtype = _placed(device), dtype or torch.float32
    if not dtype.is_floating_point:
        raise DeviceError(f"Parameters cannot be {dtype}; use torch.float32 or torch.bfloat16.")
    stored = StoredWeights(sealed)
    with torch.device("meta"):
        expected = config.build().state_dict()
    names = stored.names_for(expected, sealed.folder)
    model = build(config, device=device, loaded=names.values())
    stored.fill(_module(model), names, dtype)
    _module(model).eval()
    return model


def _placed(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"There is no device {str(device)!r} here ({str(error).splitlines()[0]}). Use cpu."
        ) from error


def _module(model: LM) -> nn.Module:
    return cast(nn.Module, model)
