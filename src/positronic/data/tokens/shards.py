"""Token shards: a source, tokenised once, as memory-mapped arrays in a folder named by the hash of what went in.

    tokens.npy      (n_tokens,) uint16, or uint32 beyond 65,536 entries; every document ends in eot_id
    documents.npy   (n_documents + 1,) int64: where each document starts, then n_tokens
    mask.npy        (n_tokens,) uint8, conversations and pairs only: 1 where the token carries loss
    manifest.json   format, source and tokenizer hashes, counts, bytes of text, sha256 of each file

Written beside its final name and renamed, so a folder is whole or absent; verified on every open. Memory is bounded by
the longest document. Two writers of one shard do the work twice, and the first to finish wins.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from positronic.config import canonical_json
from positronic.data.sources.documents import Document, Source
from positronic.data.sources.files import cache_folder, file_sha256, written_whole
from positronic.data.tokens.encode import Encoded, encode, id_type
from positronic.data.tokens.npy import NpyWriter
from positronic.errors import DataError
from positronic.text import Tokenizer

__all__ = ["Counts", "Shard", "shard", "tokenise"]

FORMAT = 1


class Counts(NamedTuple):
    """How far a shard has come."""

    name: str
    """Of its source."""
    documents: int
    bytes: int
    tokens: int


@dataclass(frozen=True)
class Shard:
    """An opened shard; the arrays stay on disk."""

    folder: Path
    name: str
    manifest: dict[str, Any]
    tokens: np.ndarray
    """(n_tokens,)"""
    documents: np.ndarray
    """(n_documents + 1,) offsets."""
    mask: np.ndarray | None
    """(n_tokens,) 1 where the token carries loss; None: everywhere."""

    @staticmethod
    def open(folder: Path, name: str) -> "Shard":
        """The shard at `folder`, after every hash has been checked; `name` is for messages."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            files = manifest["files"]
            if manifest["format"] != FORMAT:
                raise _damaged(folder, f"its format is {manifest['format']}, this build reads {FORMAT}")
            if folder.name != _key(manifest):
                raise _damaged(folder, "its manifest is that of another shard")
            for file, digest in files.items():
                if not (folder / file).is_file() or file_sha256(folder / file) != digest:
                    raise _damaged(folder, f"{file} is missing or is not what its manifest says")
            tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
            documents = np.load(folder / "documents.npy", mmap_mode="r", allow_pickle=False)
            mask = None
            if "mask.npy" in files:
                mask = np.load(folder / "mask.npy", mmap_mode="r", allow_pickle=False)
            if (len(tokens), len(documents) - 1) != (manifest["tokens"], manifest["documents"]):
                raise _damaged(folder, "its arrays are shorter than its manifest says")
            return Shard(folder, name, manifest, tokens, documents, mask)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(folder, f"{type(error).__name__}: {error}") from error

    @property
    def fingerprint(self) -> str:
        """Hash of the tokens and of where documents and losses lie."""
        return hashlib.sha256(canonical_json(self.manifest["files"]).encode()).hexdigest()


def _key(manifest: Mapping[str, Any]) -> str:
    """The folder's name: hash of what a shard was made from."""
    what = {name: manifest[name] for name in ("format", "kind", "source", "tokenizer")}
    return hashlib.sha256(canonical_json(what).encode()).hexdigest()[:32]


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(f"The token shard {folder} is damaged: {what}. Delete that folder; it will be made again.")


def tokenise(
    source: Source[Document],
    tokenizer: Tokenizer,
    *,
    cache: Path | str | None = None,
    progress: Callable[[Counts], None] | None = None,
) -> Shard:
    """The shard of a source's documents under a tokenizer: found in the cache, or made now."""
    return shard(source, "text", tokenizer, lambda: encode(source, tokenizer), cache=cache, progress=progress)


def shard(
    source: Source[object],
    kind: str,
    tokenizer: Tokenizer,
    documents: Callable[[], Iterable[Encoded]],
    *,
    cache: Path | str | None = None,
    progress: Callable[[Counts], None] | None = None,
) -> Shard:
    """The shard keyed by (kind, source, tokenizer); `documents` is asked for only when it has to be made."""
    what = {"format": FORMAT, "kind": kind, "source": source.fingerprint, "tokenizer": tokenizer.sha256}
    folder = cache_folder(cache) / _key(what)
    if folder.is_dir():
        return Shard.open(folder, source.name)
    with written_whole(folder, "Token shards") as making:
        n_documents = _write(making, {**what, "name": source.name}, tokenizer, documents(), progress)
        if n_documents == 0:
            raise DataError(f"{source.name} leaves nothing to train on. Give more text, or hold nothing out of it.")
    return Shard.open(folder, source.name)


def _write(
    folder: Path,
    manifest: dict[str, Any],
    tokenizer: Tokenizer,
    documents: Iterable[Encoded],
    progress: Callable[[Counts], None] | None,
) -> int:
    starts, n_bytes = array("q", [0]), 0
    masked = manifest["kind"] != "text"
    with (
        NpyWriter(folder / "tokens.npy", id_type(tokenizer)) as tokens,
        NpyWriter(folder / "mask.npy", np.uint8) as mask,
        NpyWriter(folder / "documents.npy", np.int64) as offsets,
    ):
        for document in documents:
            tokens.append(document.ids)
            if document.counted is not None:
                mask.append(document.counted)
            n_bytes += document.n_bytes
            if document.ends:
                starts.append(tokens.length)
            if progress is not None:
                progress(Counts(manifest["name"], len(starts) - 1, n_bytes, tokens.length))
        offsets.append(np.frombuffer(starts, dtype=np.int64))
    if not masked:
        (folder / "mask.npy").unlink()
    names = sorted(path.name for path in folder.iterdir())
    counts = {"documents": len(starts) - 1, "bytes": n_bytes, "tokens": starts[-1]}
    files = {name: file_sha256(folder / name) for name in names}
    text = json.dumps({**manifest, **counts, "files": files}, indent=1)
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return counts["documents"]
