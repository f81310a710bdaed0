"""Bytes from outside: looked at before they are parsed, and refused in one sentence.

Nothing here, or anywhere in the package, unpickles: a pickle can run any program while it is read.
"""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from positronic.config import canonical_json, check_depth
from positronic.errors import CheckpointError

__all__ = [
    "AGAIN",
    "check_json",
    "parse_json",
    "read_json_bytes",
    "reason",
    "refuse_pickle",
    "refuse_pickles_in",
    "regular",
]

AGAIN = "Copy the checkpoint again from where it is whole, or use an older one."
"""What to do about a damaged file."""
JSON_LIMIT_BYTES = 256 * 2**20
"""No JSON file of a checkpoint comes near this; beyond it something else has its name."""
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
"""How PyTorch's pickled weights are usually named."""

ZIP, PICKLES = b"PK\x03\x04", (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How today's pickled weights begin, and how bare pickles of protocols 2 to 5 do."""


def reason(error: BaseException) -> str:
    """The first line of an error, short enough for a sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = text.splitlines()[0] if text else type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def regular(path: Path) -> int:
    """The size of `path` in bytes; anything but a plain file (or a link to one) raises `CheckpointError`."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing ({reason(error)}). {AGAIN}") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} must be a plain file and is none (a folder or a device). {AGAIN}")
    return found.st_size


def read_json_bytes(path: Path) -> bytes:
    """The bytes of a file that should hold JSON."""
    size = regular(path)
    if size > JSON_LIMIT_BYTES:
        raise CheckpointError(f"{path} has {size} bytes, too many for what it should hold. {AGAIN}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}. Check the disk and its permissions.") from error


def parse_json(raw: bytes, path: Path, again: str = AGAIN) -> Any:
    """The JSON value in `raw`; repeated keys, NaN, infinities, broken text and endless nesting raise `CheckpointError`.

    again: what to do about it.
    """
    try:
        data = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite
        )
        check_depth(data)
        canonical_json(data).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no JSON that can be read ({reason(error)}). {again}") from error
    return data


def check_json(value: Any, where: str) -> None:
    """Raise `CheckpointError` if JSON would not give `value` back (tuples aside, which become lists)."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{where} has the key {key!r}, and JSON has text keys only; spell it as text.")
            check_json(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            check_json(item, where)
    elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        raise CheckpointError(f"{where} is {value!r:.80}, which JSON cannot hold; keep it as a tensor or as text.")


def refuse_pickle(path: Path) -> None:
    """Raise `CheckpointError` if `path` is a pickle, by its name or by its first bytes."""
    if path.suffix in PICKLE_SUFFIXES:
        _refuse(path)
    if not os.path.isfile(path):  # to open a pipe would be to wait for its writer
        return
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:  # not readable: for the caller to say
        return
    # A safetensors file starts with the length of its header; 80 02 .. may be one, but then it fits into the file.
    fits = int.from_bytes(start, "little") <= path.stat().st_size
    if start[:4] == ZIP or (start[:2] in PICKLES and not fits):
        _refuse(path)


def refuse_pickles_in(folder: Path) -> None:
    """Raise `CheckpointError` if a file in `folder` is named like pickled weights."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # not readable: for the caller to say
        return
    for name in names:
        if name.endswith(PICKLE_SUFFIXES):
            _refuse(folder / name)


def _refuse(path: Path) -> NoReturn:
    raise CheckpointError(
        f"{path} is a pickle, which can run any program while it is read, so positronic never unpickles. Where you "
        f"trust it, read it with torch.load(..., weights_only=True) and write it with positronic.checkpoint.save."
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value
