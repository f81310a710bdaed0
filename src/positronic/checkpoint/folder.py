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
from typing import Any, cast

import torch
from torch import Tensor, nn

from positronic.checkpoint import form
from positronic.checkpoint.atomic import appearing
from positronic.checkpoint.manifest import MANIFEST, Content, Sealed, TrainingContent, json_digest, seal, write_json
from positronic.checkpoint.open_checkpoint import CONFIG, TRAIN, open_folder, stored_config, stored_tokenizer
from positronic.checkpoint.provenance import written_by
from positronic.checkpoint.reading import check_json, reason, refuse_pickle
from positronic.checkpoint.tensors import check_types, header, read_tensors, write_tensors
from positronic.checkpoint.weights import StoredWeights, stored_types, write_weights
from positronic.config import ModelConfig, canonical_json
from positronic.errors import CheckpointError, DeviceError, TokenizerError
from positronic.lm import LM
from positronic.models import build, outline
from positronic.nn.init import at_most
from positronic.text import Tokenizer

__all__ = ["SHARD_BYTES", "TrainingPart", "load", "load_model", "load_training", "read_config", "save", "vacant"]

SHARD_BYTES = 5 * 10**9
"""Weights beyond this are cut into several files."""
SLACK = 64
"""Tensors up to which a config that asks for too many is told which; beyond them its model is not laid out at all."""
GENERATION = "generation_config.json"
TRAIN_TENSORS, TRAIN_META = f"{TRAIN}/state.safetensors", f"{TRAIN}/state.json"


@dataclass(frozen=True)
class TrainingPart:
    """What going on needs beyond the weights: optimizer, schedule, data position, random streams, counters."""

    tensors: Mapping[str, Tensor]
    """Tensors by any name."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Everything else, as JSON values: text keys, finite numbers; tuples come back as lists."""


def save(
    folder: str | os.PathLike[str],
    model: LM,
    tokenizer: Tokenizer,
    training: TrainingPart | None = None,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    clock: Callable[[], float] | None = None,
) -> Path:
    """Write a checkpoint to `folder`, replacing the one that stood there; on any error that one still stands.

    dtype: of the stored parameters, all of them (norms and scalars too); None: as they are. clock: seconds since 1970,
    dates the manifest; None: no date, and equal runs write equal folders. Equal weights always give equal bytes.
    """
    target = Path(os.path.abspath(folder))
    _check(model, tokenizer, training, dtype, shard_bytes)
    try:
        _may_replace(target)
        with appearing(target) as new:
            _write(new, model, tokenizer, training, dtype, shard_bytes, clock)
    except OSError as error:
        needed = sum(
            t.nbytes for t in [*_module(model).state_dict().values(), *(training.tensors.values() if training else ())]
        )
        raise CheckpointError(
            f"{target} could not be written: {reason(error)}. What stood there before and every earlier "
            f"checkpoint still stand; free {needed / 2**20:.1f} MiB in {target.parent}, see that it is writable, and "
            f"save again."
        ) from error
    return target


def load(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[LM, Tokenizer]:
    """The model, in eval mode, and the tokenizer of a checkpoint; whatever is not as it was saved raises an error.

    dtype: of the parameters; None: float32, whatever they were stored as. `train/` is neither read nor needed.
    """
    sealed = open_folder(folder)
    config = stored_config(sealed)
    tokenizer = stored_tokenizer(sealed, config)
    return _model(sealed, config, device, dtype), tokenizer


def load_model(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> LM:
    """The model alone, as `load` gives it."""
    sealed = open_folder(folder)
    return _model(sealed, stored_config(sealed), device, dtype)


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The core config of a checkpoint."""
    return stored_config(open_folder(folder))


def load_training(folder: str | os.PathLike[str]) -> TrainingPart:
    """What `save` was given as `training`, on the CPU."""
    sealed = open_folder(folder)
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


def _check(
    model: LM, tokenizer: Tokenizer, training: TrainingPart | None, dtype: torch.dtype | None, shard_bytes: int
) -> None:
    """Raise before anything is written if these cannot be a checkpoint."""
    if tokenizer.vocab_size != model.config.vocab_size:
        raise TokenizerError(
            f"The tokenizer has {tokenizer.vocab_size} entries and the model {model.config.vocab_size}; "
            f"save the model with the tokenizer it was trained with."
        )
    if shard_bytes < 1:
        raise CheckpointError(f"shard_bytes is {shard_bytes}; use 1 or more ({SHARD_BYTES} is usual).")
    if dtype is not None and not dtype.is_floating_point:
        raise CheckpointError(f"Parameters cannot be stored as {dtype}; use torch.float32 or torch.bfloat16.")
    module = _module(model)
    check_types(module.state_dict(), stored_types(module, dtype))
    if training is not None:
        check_types(training.tensors)
        check_json(training.meta, "training.meta")


def _write(
    new: Path,
    model: LM,
    tokenizer: Tokenizer,
    training: TrainingPart | None,
    dtype: torch.dtype | None,
    shard_bytes: int,
    clock: Callable[[], float] | None,
) -> None:
    module = _module(model)
    parameter = next(module.parameters())
    tokenizer.save(new, model.config.max_positions)
    write_json(new / CONFIG, form.config_json(model.config, tokenizer, dtype or parameter.dtype))
    write_json(new / GENERATION, form.generation_json(tokenizer))
    tensors = write_weights(new, module, dtype, shard_bytes)
    trained = None
    if training is not None:
        (new / TRAIN).mkdir()
        (new / TRAIN_META).write_text(canonical_json(training.meta) + "\n", encoding="utf-8")
        trained = TrainingContent(json_digest(training.meta), write_tensors(new / TRAIN_TENSORS, training.tensors))
    content = Content(json_digest(model.config.to_json()), tokenizer.sha256, tensors, trained)
    seal(new, content, written_by(parameter.device, clock))


def vacant(out: str | os.PathLike[str], what: str) -> Path:
    """`out` in full, if nothing stands there that `what` would take away."""
    target = Path(os.path.abspath(out))
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise CheckpointError(f"{out} is there already and not an empty folder. Give the {what} a new name.")
    return target


def _may_replace(target: Path) -> None:
    """Only a checkpoint of ours or an empty folder gives way to a new one."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise CheckpointError(f"{target} is a file or a link and no folder. Give the checkpoint another name.")
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise CheckpointError(f"{target} holds other files and no checkpoint. Give the checkpoint another name.")


def _model(sealed: Sealed, config: ModelConfig, device: str | torch.device, dtype: torch.dtype | None) -> LM:
    device, dtype = _placed(device), dtype or torch.float32
    if not dtype.is_floating_point:
        raise DeviceError(f"Parameters cannot be {dtype}; use torch.float32 or torch.bfloat16.")
    stored = StoredWeights(sealed)
    found = len(stored.kinds)
    beyond = CheckpointError(
        f"The weights in {sealed.folder} do not fit its config: they are {found} tensors, and it asks for more than "
        f"twice as many. Restore the config.json and the weights that were saved together."
    )
    with at_most(2 * found + SLACK, beyond):
        expected = outline(config).state_dict()
    names = stored.names_for(expected, sealed.folder)
    model = build(config, device=device, loaded=names.values())
    stored.fill(_module(model), names, dtype)
    _module(model).eval()
    return model


def _placed(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"There is no device {str(device)!r} here ({reason(error)}). Use cpu.") from error


def _module(model: LM) -> nn.Module:
    return cast(nn.Module, model)
