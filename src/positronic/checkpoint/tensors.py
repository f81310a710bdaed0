"""Tensors in safetensors files: written in one fixed order by us, read through the safetensors library.

The bytes of a file follow from its tensors alone: wide types first (which keeps every tensor aligned), then by name.
Each tensor has a digest of its name, type, shape and bytes, so that values moved to another name are noticed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from positronic.checkpoint.reading import AGAIN, reason
from positronic.config import canonical_json
from positronic.errors import CheckpointError

__all__ = ["check_types", "digest", "digests", "header", "opened", "read_tensors", "split", "write_tensors"]

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's names of the types that a checkpoint may hold."""
TORCH_TYPES = {name: dtype for dtype, name in TYPES.items()}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype] | None = None
) -> dict[str, str]:
    """Write `tensors` to `path`, those named in `dtypes` as that type; one at a time leaves its device. -> digests."""
    kinds = check_types(tensors, dtypes)
    order = sorted(tensors, key=lambda name: (-kinds[name].itemsize, name))
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * kinds[name].itemsize
        shape = list(tensors[name].shape)
        fields[name] = {"dtype": TYPES[kinds[name]], "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(fields, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digests = {}
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            tensor = tensors[name].detach().to("cpu", kinds[name])
            digests[name] = digest(name, tensor)
            file.write(_raw(tensor))
    return digests


def check_types(
    tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype] | None = None
) -> dict[str, torch.dtype]:
    """The type in which each of `tensors` is stored; one that the format lacks raises `CheckpointError`."""
    kinds = {name: (dtypes or {}).get(name, tensor.dtype) for name, tensor in tensors.items()}
    for name, kind in kinds.items():
        if kind not in TYPES:
            known = ", ".join(sorted(TORCH_TYPES))
            raise CheckpointError(f"{name} is {kind}, which a checkpoint cannot hold; convert it to one of {known}.")
    return kinds


def split(sizes_bytes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Names in order, cut so that no part exceeds `shard_bytes`; a tensor larger than that stands alone."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(sizes_bytes):
        if shards[-1] and filled + sizes_bytes[name] > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += sizes_bytes[name]
    return shards


def header(path: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor in `path`."""
    found = {}
    with opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (no dict)
            part = file.get_slice(name)
            kind = part.get_dtype()
            if kind not in TORCH_TYPES:
                raise CheckpointError(f"{path} holds {name} as {kind}, which this build does not know. {AGAIN}")
            found[name] = (TORCH_TYPES[kind], tuple(part.get_shape()))
    return found


def read_tensors(path: Path, digests: Mapping[str, str], names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors `names` of `path`, one by one; one that differs from its digest raises `CheckpointError`.

    They are windows into the file: copy what must outlive it.
    """
    with opened(path) as file:
        for name in names:
            tensor = file.get_tensor(name)
            if digest(name, tensor) != digests.get(name):
                raise CheckpointError(
                    f"{path} holds another tensor {name} than the one that was saved: it was changed, moved or damaged "
                    f"afterwards. {AGAIN}"
                )
            yield name, tensor


def digests(path: Path) -> dict[str, str]:
    """The digest of every tensor in `path`."""
    with opened(path) as file:
        return {name: digest(name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no dict)


def digest(name: str, tensor: Tensor) -> str:
    """SHA-256 over name, type, shape and bytes."""
    title = canonical_json([name, TYPES[tensor.dtype], list(tensor.shape)])
    found = hashlib.sha256(title.encode() + b"\n")
    found.update(_raw(tensor))
    return found.hexdigest()


def _raw(tensor: Tensor) -> memoryview:
    whole = tensor.contiguous()
    line = whole.as_strided((whole.numel(),), (1,))  # a dimension of one element may have any stride
    return line.view(torch.uint8).numpy().data


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as the safetensors library opens it; one that is none raises `CheckpointError`."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({reason(error)}). {AGAIN}") from error
