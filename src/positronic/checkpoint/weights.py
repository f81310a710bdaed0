"""The weights of a checkpoint: one safetensors file, or shards and an index that says what lies where."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from positronic.checkpoint.manifest import Sealed, write_json
from positronic.checkpoint.reading import AGAIN, refuse_pickle, refuse_pickles_in
from positronic.checkpoint.tensors import header, read_tensors, split, write_tensors
from positronic.errors import CheckpointError

__all__ = ["StoredWeights", "stored_types", "write_weights"]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
PREFIX = "model."
"""What stands before every name in a folder that Transformers wrote, where our model is a part of its wrapper."""
NAMED_AT_MOST = 5
"""Tensors named in one error message."""


def write_weights(folder: Path, model: nn.Module, dtype: torch.dtype | None, shard_bytes: int) -> dict[str, str]:
    """Write the parameters (as `dtype` if given) and persistent buffers of `model`. -> digest of each tensor."""
    tensors = model.state_dict()
    dtypes = stored_types(model, dtype)
    sizes = {name: tensor.numel() * dtypes.get(name, tensor.dtype).itemsize for name, tensor in tensors.items()}
    shards = split(sizes, shard_bytes)
    if len(shards) == 1:
        return write_tensors(folder / WEIGHTS, tensors, dtypes)
    digests: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        digests |= write_tensors(folder / file, {name: tensors[name] for name in names}, dtypes)
        weight_map |= dict.fromkeys(names, file)
    write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})
    return digests


def stored_types(model: nn.Module, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """The parameters that are stored in another type than their own: all floating ones, if `dtype` is given."""
    if dtype is None:
        return {}
    return {name: dtype for name, p in model.named_parameters(remove_duplicate=False) if p.is_floating_point()}


class StoredWeights:
    """The weights of a sealed folder: what they are is known at once, their values are read when asked for."""

    def __init__(self, sealed: Sealed):
        self._digests = sealed.manifest.content.tensors
        self._paths: dict[str, Path] = {}  # file of each tensor, by its stored name
        self.kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        """Type and shape of each tensor by its stored name."""
        for file, names in _files(sealed).items():
            path = sealed.folder / file
            refuse_pickle(path)
            found = header(sealed.path(file))
            if names is not None and set(found) != names:
                raise CheckpointError(
                    f"{path} does not hold the tensors that {INDEX} promises: {_some(set(found) ^ names)}. {AGAIN}"
                )
            self.kinds |= found
            self._paths |= dict.fromkeys(found, path)
        if set(self.kinds) != set(self._digests):
            raise CheckpointError(
                f"{sealed.folder} holds other tensors than were saved: {_some(set(self.kinds) ^ set(self._digests))}. "
                f"{AGAIN}"
            )

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values, each checked against its digest; windows into the files, to be copied."""
        for path in sorted(set(self._paths.values())):
            yield from read_tensors(path, self._digests, [n for n in sorted(self.kinds) if self._paths[n] == path])

    def names_for(self, expected: Mapping[str, Tensor], where: Path) -> dict[str, str]:
        """Stored name -> name in the model `expected` describes; any difference between the two raises."""
        ours = {name: name for name in self.kinds}
        if self.kinds and all(name.startswith(PREFIX) for name in self.kinds) and not set(ours) & set(expected):
            ours = {name: name.removeprefix(PREFIX) for name in self.kinds}
        missing, unexpected = set(expected) - set(ours.values()), set(ours.values()) - set(expected)
        if missing or unexpected:
            lacks = f"lacks {_some(missing)}" if missing else ""
            beyond = f"has {_some(unexpected)} beyond it" if unexpected else ""
            raise CheckpointError(
                f"The weights in {where} do not fit its config: it {' and '.join(filter(None, (lacks, beyond)))}. "
                f"Restore the config.json and the weights that were saved together."
            )
        for stored, name in ours.items():
            (dtype, shape), module = self.kinds[stored], expected[name]
            if shape != tuple(module.shape) or not _fits(dtype, module.dtype):
                raise CheckpointError(
                    f"{stored} in {where} is {_kind(dtype, shape)}, and its config asks for "
                    f"{_kind(module.dtype, tuple(module.shape))}. Restore the config.json and the weights that were "
                    f"saved together."
                )
        return ours

    @torch.no_grad()
    def fill(self, model: nn.Module, names: Mapping[str, str], dtype: torch.dtype) -> None:
        """Copy the values into `model`, whose parameters become `dtype`; buffers keep the type they were made with."""
        targets: dict[str, Any] = model.state_dict(keep_vars=True)
        for stored, values in self:
            target = targets[names[stored]]
            if isinstance(target, nn.Parameter) and target.is_floating_point() and target.dtype != dtype:
                target.data = values.to(target.device, dtype, copy=True)
            else:
                target.copy_(values)


def _files(sealed: Sealed) -> dict[str, set[str] | None]:
    """Each file of weights with the tensors promised to be in it; None: whatever it holds."""
    whole, sharded = WEIGHTS in sealed.manifest.files, INDEX in sealed.manifest.files
    if whole == sharded:
        refuse_pickles_in(sealed.folder)
        found = f"both {WEIGHTS} and {INDEX}" if whole else f"neither {WEIGHTS} nor {INDEX}"
        raise CheckpointError(f"The manifest of {sealed.folder} lists {found}; one of them holds the weights. {AGAIN}")
    if whole:
        return {WEIGHTS: None}
    index = sealed.json(INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{sealed.folder / INDEX} has no weight_map. {AGAIN}")
    files: dict[str, set[str] | None] = {}
    for name, file in sorted(weight_map.items()):
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise CheckpointError(f"{sealed.folder / INDEX} puts {name} into {str(file)[:80]!r}, no shard. {AGAIN}")
        names = files.setdefault(file, set())
        assert names is not None
        names.add(name)
    return files


def _fits(stored: torch.dtype, module: torch.dtype) -> bool:
    return stored == module or (stored.is_floating_point and module.is_floating_point)


def _kind(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMED_AT_MOST])
    return shown if len(names) <= NAMED_AT_MOST else f"{shown} and {len(names) - NAMED_AT_MOST} more"
