"""Before Transformers reads a folder: no pickle is read, and where a manifest stands, weights are held to it.

A folder whose manifest was copied along is checked as `positronic.load` checks it: its core config, each file of
weights, each tensor. Without one only the form is sure: safetensors. An exported copy of this file does the same; as it
comes from that folder, it guards against damage and not against whoever wrote the folder.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from positronic.checkpoint.form import core_of
from positronic.checkpoint.manifest import MANIFEST, Sealed, json_digest
from positronic.checkpoint.reading import AGAIN, parse_json, read_json_bytes, refuse_pickle, refuse_pickles_in
from positronic.checkpoint.tensors import header
from positronic.checkpoint.weights import INDEX, WEIGHTS, StoredWeights
from positronic.errors import CheckpointError, ConfigError

__all__ = ["check_adapter", "check_source", "safe_wishes"]

CONFIG, ADAPTER = "config.json", "adapter_model.safetensors"
FETCHING = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
"""How a folder of a hub is found, in the words of `from_pretrained`."""


def safe_wishes(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `from_pretrained`, with which it reads safetensors under their usual names or nothing."""
    if wishes.get("use_safetensors") is False:
        raise ConfigError("use_safetensors=False asks for a pickle, and positronic never unpickles. Leave it out.")
    for name in ("variant", "gguf_file"):
        if wishes.get(name) is not None:
            raise ConfigError(
                f"{name}={wishes[name]!r} names other weights than a folder of ours holds, {WEIGHTS} or shards of it. "
                f"Leave it out; dtype rounds the weights that are read."
            )
    return {**wishes, "use_safetensors": True}


def check_source(source: Any, wishes: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` for a folder, here or on a hub, whose weights are none that may be read."""
    if getattr(wishes.get("config"), "transformers_weights", None) is not None:
        raise CheckpointError(f"The config of {source} names a file of weights, transformers_weights. Take it out.")
    if os.path.isdir(source):
        _check_folder(Path(os.path.realpath(Path(source) / (wishes.get("subfolder") or ""))))
    elif os.path.isfile(source):
        refuse_pickle(Path(source))
    else:
        _check_fetched(str(source), {name: wishes[name] for name in FETCHING if wishes.get(name) is not None})


def check_adapter(source: Any) -> None:
    """Raise `CheckpointError` for a folder of PEFT's that has its matrices as a pickle alone."""
    if source is not None and os.path.isdir(source) and not os.path.isfile(os.path.join(source, ADAPTER)):
        refuse_pickles_in(Path(source))


def _check_folder(folder: Path) -> None:
    if not os.path.lexists(folder / MANIFEST):
        if not any(os.path.isfile(folder / name) for name in (WEIGHTS, INDEX)):
            refuse_pickles_in(folder)
        for file in folder.glob("*.safetensors"):
            header(file)
        return
    sealed = Sealed(folder)
    core = core_of(parse_json(read_json_bytes(folder / CONFIG), folder / CONFIG), str(folder / CONFIG))
    if json_digest(core) != sealed.manifest.content.config:
        raise CheckpointError(f"{folder / CONFIG} is not the config that these weights were saved with. {AGAIN}")
    for name in (WEIGHTS, INDEX):
        if os.path.lexists(folder / name) and name not in sealed.manifest.files:
            raise CheckpointError(f"{folder / MANIFEST} does not list {name}, so it is not trusted. {AGAIN}")
    for _ in StoredWeights(sealed):
        pass


def _check_fetched(source: str, how: Mapping[str, Any]) -> None:
    """The same for a folder of a hub, whose weights are fetched for it if need be."""
    absent = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    manifest = cached_file(source, MANIFEST, **how, **absent, _raise_exceptions_for_gated_repo=False)
    if manifest is None:
        return
    folder = Path(manifest).parent
    for name in Sealed(folder).manifest.files:
        if name == CONFIG or name.startswith(WEIGHTS.removesuffix(".safetensors")):
            cached_file(source, name, **how)
    _check_folder(folder)
