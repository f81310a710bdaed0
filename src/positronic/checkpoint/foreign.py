"""Folders that another program's model was saved to: settings that are all accounted for, and tensors by name.

A setting is read, or known to change nothing that a model says, or refused by its name: none is passed over. A tensor
is a part of ours, or a table that follows from the settings, or refused.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from positronic.checkpoint.reading import AGAIN, parse_json, read_json_bytes, refuse_pickle
from positronic.checkpoint.tensors import header, opened
from positronic.checkpoint.weights import INDEX, SHARD, WEIGHTS
from positronic.config import ModelConfig
from positronic.errors import CheckpointError

__all__ = ["Architecture", "ForeignWeights", "Part", "Settings"]

TRANSFORMERS = (
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "initializer_range",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""What any config of Transformers may hold, and what changes no logit."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SHOWN = 5
"""Names in one sentence."""


class Settings:
    """The config.json of another program; each reading takes its setting off the list of what is left."""

    def __init__(self, data: dict[str, Any], where: str):
        self._left, self._where = {name: value for name, value in data.items() if value is not None}, where

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number of 1 or more."""
        return self._read(name, default, lambda value: type(value) is int and value > 0, "a whole number above 0")

    def real(self, name: str, default: float | None = None) -> float:
        """A number above 0."""
        fits: Callable[[Any], bool] = lambda value: type(value) in (int, float) and value > 0  # noqa: E731
        return float(self._read(name, default, fits, "a number above 0"))

    def flag(self, name: str, default: bool) -> bool:
        return self._read(name, default, lambda value: isinstance(value, bool), "true or false")

    def only(self, name: str, *known: Any) -> Any:
        """The setting, which must be one of these; the first where it is not said, as null does not."""
        listed = " or ".join(json.dumps(value) for value in known)
        return self._read(name, known[0], lambda value: value in known, f"{listed}: no other is built here")

    def part(self, name: str) -> "Settings":
        """Settings inside a setting; none where it is not there."""
        inside = self._read(name, {}, lambda value: isinstance(value, dict), "an object")
        return Settings(inside, f"{self._where}: {name}")

    def end(self) -> int | None:
        """The token that ends a document, the first where there are several; None where none is said."""
        ends = self._left.pop("eos_token_id", None)
        first = ends[0] if isinstance(ends, list) and ends else ends
        if first is not None and type(first) is not int:
            raise CheckpointError(f"{self._where} has eos_token_id {str(ends)[:80]}, no id. Correct it.")
        return first

    def done(self, idle: Collection[str] = ()) -> None:
        """Raise for what was not read; idle: settings that change no logit."""
        strange = sorted(self._left.keys() - {*idle, *TRANSFORMERS})
        if strange:
            value = str(self._left[strange[0]])[:80]
            raise CheckpointError(
                f"{self._where} sets {strange[0]} to {value}, and nothing here knows what it changes. Use the model in "
                f"Transformers, or take the line out if it changes nothing."
            )

    def _read(self, name: str, default: Any, fits: Callable[[Any], bool], what: str) -> Any:
        value = self._left.pop(name, default)
        if value is None:
            raise CheckpointError(f"{self._where} lacks {name}. Give the config.json that was saved with the weights.")
        if not fits(value):
            raise CheckpointError(
                f"{self._where} has {name} {json.dumps(value)[:80]}, and it must be {what}. Use the model in "
                f"Transformers."
            )
        return value


class Part(NamedTuple):
    """A tensor of ours, made of others."""

    name: str
    sources: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and shapes of what it is made of."""
    make: Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Architecture:
    """How a kind of model of another program's is one of ours."""

    config: Callable[[Settings], ModelConfig]
    """Of all settings but the vocabulary's and the model's end of a document; the vocabulary is the model's."""
    parts: Callable[[Any], Iterator[Part]]
    """Of a config, every parameter that is loaded."""
    prefix: str
    """Before every name but the head's, where the model was saved with its head."""
    tables: re.Pattern[str]
    """Names of tensors, without the prefix, that follow from the settings."""


class ForeignWeights:
    """The safetensors of a folder: what they are is known at once, their values are read when asked for."""

    def __init__(self, folder: Path, architecture: Architecture):
        self.folder, self.kinds, self._stored = folder, {}, {}  # type: ignore[var-annotated]
        for path in _files(folder):
            refuse_pickle(path)
            for stored, kind in header(path).items():
                name = stored.removeprefix(architecture.prefix)
                if architecture.tables.fullmatch(name):
                    continue
                if name in self.kinds:
                    raise CheckpointError(f"{folder} holds {name} twice. {AGAIN}")
                self.kinds[name], self._stored[name] = kind, (path, stored)

    def check(self, parts: Sequence[Part]) -> torch.dtype:
        """Raise unless these are exactly the tensors that the parts are made of; -> the type of the first."""
        wanted = dict(source for part in parts for source in part.sources)
        missing, surplus = sorted(wanted.keys() - self.kinds.keys()), sorted(self.kinds.keys() - wanted.keys())
        for names, verb in ((missing, "lacks"), (surplus, "holds beside what its config.json asks for")):
            if names:
                shown = ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
                raise CheckpointError(f"{self.folder} {verb} {shown}. Give a folder of a whole model and no more.")
        for name, shape in wanted.items():
            dtype, found = self.kinds[name]
            if found != shape or dtype not in FLOATS:
                kind = f"{str(dtype).removeprefix('torch.')} {list(found)}"
                raise CheckpointError(
                    f"{self.folder} holds {name} as {kind}, and its config.json asks for floating point {list(shape)}. "
                    f"Give the config.json that was saved with the weights."
                )
        return self.kinds[next(iter(wanted))][0]

    @contextmanager
    def reading(self) -> Iterator[Callable[[str], Tensor]]:
        """Inside the block, a tensor by its name: a window into its file."""
        with ExitStack() as stack:
            files = {path: stack.enter_context(opened(path)) for path in {path for path, _ in self._stored.values()}}

            def tensor(name: str) -> Tensor:
                path, stored = self._stored[name]
                return files[path].get_tensor(stored)

            yield tensor


def _files(folder: Path) -> list[Path]:
    """The files that hold the weights: one, or those that the index names."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        pickle = next((path for path in sorted(folder.glob("*.bin"))), None)
        if pickle is not None:
            raise CheckpointError(
                f"{pickle} is a pickle, which can run any program while it is read, so positronic never unpickles. "
                f"Where you trust it, open the folder with Transformers, save_pretrained it to a new one and give that."
            )
        raise CheckpointError(f"{folder} has neither {WEIGHTS} nor {INDEX}. Give a folder that holds the weights.")
    index = parse_json(read_json_bytes(folder / INDEX), folder / INDEX)
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{folder / INDEX} has no weight_map. {AGAIN}")
    strange = [name for name in placed.values() if not isinstance(name, str) or not SHARD.fullmatch(name)]
    if strange:
        raise CheckpointError(f"{folder / INDEX} names {str(strange[0])[:80]!r}, which is no shard. {AGAIN}")
    return [folder / name for name in sorted(set(placed.values()))]
