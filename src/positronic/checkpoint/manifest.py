"""The manifest: what a checkpoint folder must contain, byte for byte and in meaning.

`files` has size and SHA-256 of every file. `content` has what the files mean: a digest a tensor, of the core config and
of the tokenizer, so that a folder whose values were moved about and whose files were hashed anew is still noticed.
It guards against damage and mixing, not against someone who rewrites the manifest as a whole.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from positronic.checkpoint.reading import AGAIN, parse_json, read_json_bytes, reason, regular
from positronic.config import canonical_json
from positronic.errors import CheckpointError

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Content",
    "FileRecord",
    "Manifest",
    "Sealed",
    "TrainingContent",
    "json_digest",
    "seal",
    "write_json",
]

FORMAT = 1
"""The form of checkpoint folders that this build writes, and the newest that it reads."""
MANIFEST = "manifest.json"
CHUNK_BYTES = 2**20


class FileRecord(NamedTuple):
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class TrainingContent:
    meta: str
    """Digest of `train/state.json`'s value."""
    tensors: Mapping[str, str]
    """Digest of each tensor of `train/state.safetensors`."""


@dataclass(frozen=True)
class Content:
    config: str
    """Digest of the core config."""
    tokenizer: str
    """The tokenizer's own hash."""
    tensors: Mapping[str, str]
    """Digest of each weight by name."""
    training: TrainingContent | None
    """None: the checkpoint holds weights only."""


@dataclass(frozen=True)
class Manifest:
    files: Mapping[str, FileRecord]
    content: Content
    written_by: Mapping[str, Any]
    """Versions, device, threads and commit: under the same ones a resumed run equals an unbroken one bit for bit."""

    def to_json(self) -> dict[str, Any]:
        training = self.content.training
        return {
            "format": FORMAT,
            "files": {name: {"bytes": r.n_bytes, "sha256": r.sha256} for name, r in sorted(self.files.items())},
            "content": {
                "config": self.content.config,
                "tokenizer": self.content.tokenizer,
                "tensors": dict(sorted(self.content.tensors.items())),
                "training": training and {"meta": training.meta, "tensors": dict(sorted(training.tensors.items()))},
            },
            "written_by": dict(self.written_by),
        }

    @staticmethod
    def read(path: Path) -> "Manifest":
        """The manifest in `path`; whatever is not exactly one raises `CheckpointError`."""
        data = parse_json(read_json_bytes(path), path)
        found = data.get("format") if isinstance(data, dict) else None
        if type(found) is not int or found < 1:
            raise CheckpointError(f"{path} names no format, so it is no manifest of ours. {AGAIN}")
        if found > FORMAT:
            raise CheckpointError(
                f"{path} was written in format {found}, and this build reads up to {FORMAT}. Upgrade positronic."
            )
        part = _Part(data, str(path), ("format", "files", "content", "written_by"))
        content = part.object("content", ("config", "tokenizer", "tensors", "training"))
        training = None
        if content.data["training"] is not None:
            trained = content.object("training", ("meta", "tensors"))
            training = TrainingContent(trained.digest("meta"), trained.digests("tensors"))
        return Manifest(
            {name: _record(name, part.object("files").object(name)) for name in part.object("files").data},
            Content(content.digest("config"), content.digest("tokenizer"), content.digests("tensors"), training),
            part.object("written_by").data,
        )


class Sealed:
    """A checkpoint folder with its manifest; every file is held against it when asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = Manifest.read(folder / MANIFEST)

    def complete(self) -> bool:
        """Whether every file is there with its size; what is inside is checked on reading."""
        try:
            return all(regular(self.folder / name) == r.n_bytes for name, r in self.manifest.files.items())
        except CheckpointError:
            return False

    def path(self, name: str) -> Path:
        """The path of a file that is what the manifest says."""
        self._hold(name, file_record(self._sized(name)))
        return self.folder / name

    def json(self, name: str) -> Any:
        """The value of a JSON file that is what the manifest says."""
        raw = read_json_bytes(self._sized(name))
        self._hold(name, FileRecord(len(raw), hashlib.sha256(raw).hexdigest()))
        return parse_json(raw, self.folder / name)

    def _sized(self, name: str) -> Path:
        path = self.folder / name
        if name not in self.manifest.files:
            raise CheckpointError(f"{self.folder / MANIFEST} does not list {name}, so it is not trusted. {AGAIN}")
        size, expected = regular(path), self.manifest.files[name].n_bytes
        if size != expected:
            raise CheckpointError(f"{path} has {size} bytes and was saved with {expected}. {AGAIN}")
        return path

    def _hold(self, name: str, found: FileRecord) -> None:
        if found != self.manifest.files[name]:
            raise CheckpointError(
                f"{self.folder / name} is not the file that was saved: its SHA-256 begins {found.sha256[:12]}, "
                f"the manifest's {self.manifest.files[name].sha256[:12]}. {AGAIN}"
            )


def file_record(path: Path) -> FileRecord:
    """Size and SHA-256 of a file."""
    found, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                found.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}. Check the disk and its permissions.") from error
    return FileRecord(size, found.hexdigest())


def seal(folder: Path, content: Content, written_by: Mapping[str, Any], names: Collection[str] | None = None) -> None:
    """Write the manifest of a folder in which everything else stands; names: of the files it answers for, None: all."""
    if names is None:
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    files = {name: file_record(folder / name) for name in sorted(names)}
    write_json(folder / MANIFEST, Manifest(files, content, written_by).to_json())


def json_digest(data: Any) -> str:
    """SHA-256 of the canonical spelling of a JSON value."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Readable JSON, keys in the order given."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


class _Part:
    """An object inside the manifest, and where it stands."""

    def __init__(self, data: Any, where: str, keys: tuple[str, ...] | None = None):
        self.data, self.where = data, where
        if not isinstance(data, dict):
            raise CheckpointError(f"{where} must be a JSON object. {AGAIN}")
        if keys is not None and set(data) != set(keys):
            odd = ", ".join(sorted(set(data) ^ set(keys)))
            raise CheckpointError(f"{where} lacks or should not have: {odd[:200]}. {AGAIN}")

    def object(self, key: str, keys: tuple[str, ...] | None = None) -> "_Part":
        return _Part(self.data[key], f"{self.where}: {key}", keys)

    def digest(self, key: str) -> str:
        value = self.data[key]
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            raise CheckpointError(f"{self.where}: {key} is no SHA-256. {AGAIN}")
        return value

    def digests(self, key: str) -> dict[str, str]:
        part = self.object(key)
        return {name: part.digest(name) for name in part.data}


def _record(name: str, part: _Part) -> FileRecord:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or str(path) != name:
        raise CheckpointError(f"{part.where} is no file inside the checkpoint. {AGAIN}")
    part = _Part(part.data, part.where, ("bytes", "sha256"))
    size = part.data["bytes"]
    if type(size) is not int or size < 0:
        raise CheckpointError(f"{part.where}: bytes is no size. {AGAIN}")
    return FileRecord(size, part.digest("sha256"))
