"""Writing an exported folder: a checkpoint of ours in every case, so that our own tools go on reading it.

    config.json  tokenizer.json  model.safetensors  manifest.json  ...      as `positronic.checkpoint.save` writes them
    configuration_positronic.py  modeling_positronic.py  nn_stack.py  ...   the code of this one family, flat
    README.md                                                               the model card

The manifest answers for weights and configs alone: code and card are the owner's to change.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from positronic.adapters.export.card import Card, held_out_score
from positronic.adapters.export.flatten import faults, flatten, title
from positronic.checkpoint import SHARD_BYTES, adopt, load, save, vacant
from positronic.checkpoint.atomic import appearing
from positronic.checkpoint.manifest import write_json
from positronic.checkpoint.open_checkpoint import CONFIG, open_folder
from positronic.checkpoint.reading import reason
from positronic.config import Config
from positronic.errors import CheckpointError, ConfigError
from positronic.lm import LM
from positronic.text import Tokenizer

__all__ = ["DTYPES", "Exported", "code_of", "export_checkpoint", "export_remote_code"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types that parameters are exported in, by name."""
ADAPTER = "positronic.adapters.hf"
CONFIGURATION, MODELING, CLASSIFYING = "configuration_positronic", "modeling_positronic", "classifying_positronic"
TITLES = {
    f"{ADAPTER}.configuration": CONFIGURATION,
    f"{ADAPTER}.model": MODELING,
    f"{ADAPTER}.classifying": CLASSIFYING,
}
"""Files that Transformers is told of; all others follow from what these import."""
AUTO_MAP = {
    "AutoConfig": f"{CONFIGURATION}.PositronicConfig",
    "AutoModel": f"{MODELING}.PositronicModel",
    "AutoModelForCausalLM": f"{MODELING}.PositronicForCausalLM",
    "AutoModelForSequenceClassification": f"{CLASSIFYING}.PositronicForSequenceClassification",
}
KINDS = "\n\n# The kinds of config that config.json names: each is known once its module is imported.\n"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    family: str
    dtype: str
    parameters: int
    files: tuple[str, ...]
    n_bytes: int

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"folder": str(self.folder), "files": list(self.files)}


def export_checkpoint(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """A checkpoint of ours with parameters as `dtype` (None: as they are stored) and without a training state."""
    target = vacant(out, "export")
    model, tokenizer, kind = _opened(source, dtype)
    save(target, model, tokenizer, shard_bytes=shard_bytes)
    return _exported(target, model, kind)


def export_remote_code(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """The same, with the code of its family and a model card: Transformers opens it where positronic is not."""
    target = vacant(out, "export")
    model, tokenizer, kind = _opened(source, dtype)
    code = code_of(model.config)
    card = Card(target.name, model.config, _parameters(model), held_out_score(open_folder(source).folder))
    with _written(target), appearing(target) as new:
        save(new, model, tokenizer, shard_bytes=shard_bytes)
        config = json.loads((new / CONFIG).read_text("utf-8"))
        write_json(new / CONFIG, config | {"auto_map": AUTO_MAP})
        for file, text in code.items():
            (new / f"{file}.py").write_text(text, encoding="utf-8")
        (new / "README.md").write_text(card.text(), encoding="utf-8")
        adopt(new)
    return _exported(target, model, kind)


def code_of(config: Config) -> dict[str, str]:
    """What Transformers needs to build the model of a config: the text of each file by its name, ".py" left out."""
    kinds = sorted({(type(part).__module__, type(part).__name__) for part in _parts(config)})
    strange = [f"{module}.{name}" for module, name in kinds if not module.startswith("positronic.")]
    if strange:
        raise ConfigError(
            f"The model is built from {', '.join(strange)}, which is no part of positronic, and only positronic's own "
            f"code can be exported. Export it as safetensors, and bring that module along."
        )
    written = flatten([*TITLES, *(module for module, _ in kinds)], TITLES)
    lines = [f"from .{title(module, TITLES)} import {name}  # noqa: E402, F401\n" for module, name in kinds]
    written[MODELING] += KINDS + "".join(lines)
    wrong = faults(written)
    assert not wrong, wrong
    return written


def _parts(config: Config) -> Iterator[Config]:
    """A config and all configs inside."""
    yield config
    for field in fields(config):
        value = getattr(config, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Config):
                yield from _parts(part)


def _opened(source: str | os.PathLike[str], dtype: str | None) -> tuple[LM, Tokenizer, str]:
    """Model and tokenizer, and the type that the parameters are in."""
    stored = open_folder(source).json(CONFIG).get("dtype")
    kind = dtype or (stored if stored in DTYPES else "float32")
    if kind not in DTYPES:
        raise CheckpointError(f"Parameters cannot be exported as {kind!r}; use one of {', '.join(DTYPES)}.")
    return *load(source, dtype=DTYPES[kind]), kind


@contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{target} could not be written: {reason(error)}. See that there is room in {target.parent}, that it is "
            f"writable, and export again."
        ) from error


def _parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _exported(folder: Path, model: LM, dtype: str) -> Exported:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Exported(
        folder,
        model.config.kind,
        dtype,
        _parameters(model),
        tuple(path.relative_to(folder).as_posix() for path in files),
        sum(path.stat().st_size for path in files),
    )
