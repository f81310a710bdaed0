"""Opening a checkpoint folder: is it one, and are its config and tokenizer those that were saved with the weights."""

import os
from pathlib import Path

from positronic.checkpoint.atomic import standing
from positronic.checkpoint.form import core_of
from positronic.checkpoint.manifest import MANIFEST, Sealed, json_digest
from positronic.checkpoint.reading import refuse_pickle, refuse_pickles_in
from positronic.config import ModelConfig
from positronic.errors import CheckpointError, TokenizerError
from positronic.text import Tokenizer

__all__ = ["CONFIG", "TRAIN", "open_folder", "stored_config", "stored_tokenizer"]

CONFIG, TRAIN = "config.json", "train"


def open_folder(folder: str | os.PathLike[str]) -> Sealed:
    """The folder with its manifest read. A link is followed once, so that moving `RUN/last` disturbs no reader."""
    try:
        path = standing(Path(os.path.realpath(folder)))
    except ValueError as error:  # a name that no file can have
        raise CheckpointError(f"There is no checkpoint at {str(folder)!r}: {error}. Give a folder's name.") from error
    if os.path.isfile(path):
        refuse_pickle(path)
        raise CheckpointError(f"{path} is a file; a checkpoint is a folder. Give the folder that holds {MANIFEST}.")
    if not os.path.isdir(path):
        raise CheckpointError(f"There is no checkpoint at {folder}. Give a folder that `save` or a training run wrote.")
    if not os.path.lexists(path / MANIFEST):
        if os.path.isdir(path / "last"):
            raise CheckpointError(f"{path} is a run and no checkpoint. Give {path / 'last'}, its newest.")
        refuse_pickles_in(path)
        raise CheckpointError(
            f"{path} has no {MANIFEST}: it is no checkpoint of ours, or was copied in part. Give a folder that `save` "
            f"or a training run wrote, or make one of what Transformers saved with positronic.checkpoint.adopt."
        )
    return Sealed(path)


def stored_config(sealed: Sealed) -> ModelConfig:
    """The core config, if it is the one the weights were saved with."""
    where = str(sealed.folder / CONFIG)
    core = core_of(sealed.json(CONFIG), where)
    config = ModelConfig.from_json(core, where)
    if json_digest(core) != sealed.manifest.content.config:
        raise CheckpointError(
            f"{where} is not the config these weights were saved with. Restore it; to build another model from them, "
            f"start a run with --init {sealed.folder}."
        )
    return config


def stored_tokenizer(sealed: Sealed, config: ModelConfig) -> Tokenizer:
    """The tokenizer, if it is the one the weights were saved with: its file may be spelled otherwise where the manifest
    does not answer for it, as in a folder that was adopted."""
    for name in sorted(sealed.manifest.files):
        if not name.startswith(f"{TRAIN}/") and not name.endswith(".safetensors"):
            sealed.path(name)
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
