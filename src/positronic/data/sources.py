"""Documents out of files: txt, md, jsonl, json (each plain, .gz, .xz or .zst), parquet, folders of these, data sets.

    PATH            a file or a folder (recursive, sorted by name; hidden files and other suffixes are passed over)
    hf:NAME ...     a data set of the Hugging Face hub, or a local one in its forms (`hub.py`)
    PATH#FIELD      what of a record is its text (`fields.py`) in json, jsonl, parquet, data sets; "text" when not given
    PATH:0.35       the share of this source in a mixture; PATH may itself contain ':' and '#'

One txt or md file is one document, unless it holds marks `<|endoftext|>`: then it is split there, and the line ends
around a mark belong to the mark. One line of jsonl, one item of a json list, one row is one document: a string, or an
object whose field is a string. Texts of white space alone are no documents. Line ends are left as they are.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from positronic.data.fields import values
from positronic.data.files import (
    PACKED,
    file_sha256,
    files_below,
    lines,
    missing,
    plain_suffix,
    text_chunks,
    whole_text,
)
from positronic.data.hub import PREFIX, HubSet, fetch
from positronic.data.parquet import rows
from positronic.errors import DataError

__all__ = ["DataSpec", "Document", "Source", "TextFiles", "open_source"]

MARK = "<|endoftext|>"
SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".parquet")
READER = 1
"""Version of how files become documents; part of every fingerprint."""


@dataclass(frozen=True)
class Document:
    """One text that is read from its beginning, and where it came from."""

    text: str
    name: str


Kind = TypeVar("Kind", covariant=True)


class Source(Protocol[Kind]):
    """Documents, conversations or pairs, in the same order every time."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of how it is read; equal fingerprints give equal content."""
        ...

    def __iter__(self) -> Iterator[Kind]: ...


@dataclass(frozen=True)
class DataSpec:
    """What `PATH#field:weight` says."""

    path: Path | HubSet
    field: str | None = None
    weight: float | None = None

    @staticmethod
    def of(spec: "DataSpec | str | Path") -> "DataSpec":
        """The spec itself, or the one that a text or a path stands for."""
        if isinstance(spec, Path):
            return DataSpec(spec)
        return DataSpec.parse(spec) if isinstance(spec, str) else spec

    @staticmethod
    def parse(text: str) -> "DataSpec":
        """A trailing `:number` is the weight; `#field` counts behind a data set, records, or a path that exists."""
        path, weight = text, None
        if found := re.fullmatch(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)", text, re.DOTALL):
            path, weight = found[1], float(found[2])
            if not 0 < weight < float("inf"):
                raise DataError(f"{text!r} has weight {found[2]}; give a positive number, or leave the source out.")
        if path.startswith(PREFIX):
            name, _, field = path.partition("#")
            return DataSpec(HubSet.parse(name), field or None, weight)
        stem, mark, field = path.rpartition("#")
        of_records = ".json" in stem or ".parquet" in stem
        if mark and field and not Path(path).exists() and (Path(stem).exists() or of_records):
            if plain_suffix(Path(stem)) in (".txt", ".md"):
                raise DataError(f"{text!r} names a field of plain text, which has none; leave #{field} out.")
            return DataSpec(Path(stem), field, weight)
        return DataSpec(Path(path), None, weight)

    def __str__(self) -> str:
        field = "" if self.field is None else f"#{self.field}"
        return f"{self.path}{field}" + ("" if self.weight is None else f":{self.weight}")

    def on_disk(self, field: str | None) -> tuple[Path, str]:
        """Where the data lies, and its name; of a data set the rows are fetched, with the columns `field` reads."""
        if isinstance(self.path, HubSet):
            return fetch(self.path, field), self.path.name
        return self.path, self.path.name or self.path.resolve().name


def open_source(spec: DataSpec | str | Path) -> "TextFiles":
    """The documents at `PATH` or `PATH#field`; a weight is for the mixture and changes nothing here."""
    spec = DataSpec.of(spec)
    field = spec.field or "text"
    path, name = spec.on_disk(field)
    return TextFiles(path, field, name)


class TextFiles:
    """The documents of one file, or of all files of a folder."""

    def __init__(self, path: Path, field: str, name: str):
        self.path, self.field, self.name = path, field, name
        self.files = find_files(path, SUFFIXES, "documents")

    @cached_property
    def fingerprint(self) -> str:
        """Of the files' names and stored bytes."""
        return files_fingerprint(f"text {READER} {self.field}", self.path, self.files)

    def __iter__(self) -> Iterator[Document]:
        found = False
        for path in self.files:
            for document in self._documents(path):
                found = True
                yield document
        if not found:
            raise DataError(f"{self.path} is empty: it holds no text. Put text in it, or leave it out.")

    def _documents(self, path: Path) -> Iterator[Document]:
        root = path.parent if path == self.path else self.path
        name = path.relative_to(root).as_posix()
        parts: Iterator[tuple[str, str]]
        if plain_suffix(path) in (".jsonl", ".json", ".parquet"):
            found = records(path, name, self.field)
            parts = ((where, self._text(record, f"{root / where}")) for where, record in found)
        else:
            parts = _marked(path, name)
        for where, text in parts:
            if text.strip():
                yield Document(text, where)

    def _text(self, record: Any, place: str) -> str:
        texts = values(self.field, record, self.path, place) if isinstance(record, dict) else [record]
        if len(texts) != 1:
            texts = [text for text in texts if text]
        for text in texts:
            if not isinstance(text, str):
                raise DataError(
                    f"{place} has {_kind(text)} where text should be ({self.field!r}). Choose another field."
                )
        joined = "\n\n".join(texts)
        try:
            joined.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{place} holds half a surrogate pair, which is no character. Mend or delete it."
            ) from error
        return joined


def find_files(path: Path, suffixes: tuple[str, ...], what: str) -> tuple[Path, ...]:
    """`path` itself, or the files below it that have one of the suffixes, sorted by name."""
    if path.is_file():
        if plain_suffix(path) not in suffixes:
            raise DataError(
                f"{path} has the suffix {path.suffix or 'none'!r}; {what} are read from {', '.join(suffixes)} "
                f"({PACKED}). Rename it if it is one of them, or convert it."
            )
        return (path,)
    if not path.is_dir():
        raise missing(path)
    seen = files_below(path)
    chosen = sorted((entry for entry in seen if plain_suffix(entry) in suffixes), key=lambda entry: entry.as_posix())
    if not chosen:
        there = ", ".join(sorted({entry.suffix or "none" for entry in seen})) or "no files at all"
        raise DataError(f"{path} holds no {', '.join(suffixes)} ({PACKED}); it holds {there}. Name other data.")
    return tuple(path / entry for entry in chosen)


def files_fingerprint(how: str, root: Path, files: tuple[Path, ...]) -> str:
    """Hash of the reader's settings and of each file's place below `root` and stored bytes."""
    digest = hashlib.sha256(f"{how}\n".encode())
    for path in files:
        place = plain_suffix(path) if path == root else path.relative_to(root).as_posix()
        digest.update(f"{place}\n{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def records(path: Path, name: str, field: str | None = None) -> Iterator[tuple[str, Any]]:
    """(place, value) for each row, line of jsonl or item of a json list; an object alone is a list of one.

    A json file whose first line is a whole object, and not its last, is read as jsonl.

    field: of parquet only the columns that it reads.
    """
    if plain_suffix(path) == ".parquet":
        yield from ((f"{name}:{number}", record) for number, record in rows(path, field))
        return
    if plain_suffix(path) == ".jsonl":
        for number, line in lines(path):
            if line.strip():
                yield f"{name}:{number}", _json(line, f"{path}:{number}")
        return
    text = whole_text(path)
    if _is_lines(text):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{name}:{number}", _json(line, f"{path}:{number}")
        return
    whole = _json(text, str(path)) if text.strip() else []
    for index, item in enumerate(whole if isinstance(whole, list) else [whole]):
        yield f"{name}[{index}]", item


def _is_lines(text: str) -> bool:
    """Whether what is called json is an object a line."""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{place} is broken JSON: {error.msg} at {at}. Mend or delete it.") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{place} is JSON that cannot be read: {error}. Mend or delete it.") from error


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", bytes: "bytes"}
    return kinds.get(type(value), "a number")


def _marked(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """(place, text) for what stands between marks; the whole file, untouched, when there is no mark."""
    held, index = "", 0
    for piece in text_chunks(path):
        start = max(0, len(held) - len(MARK))
        held += piece
        if held.find(MARK, start) < 0:
            continue
        *ended, held = held.split(MARK)
        for text in ended:
            yield f"{name}[{index}]", text.strip("\r\n")
            index += 1
    yield (name, held) if index == 0 else (f"{name}[{index}]", held.strip("\r\n"))
