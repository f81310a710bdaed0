"""Documents out of files: txt, md, jsonl, json (each plain, .gz, .xz or .zst), parquet, folders of these, data sets.

    PATH            a file or a folder (recursive, sorted by name; hidden files and other suffixes are passed over)
    hf:NAME ...     a data set of the Hugging Face hub, or a local one in its forms (`hub.py`)
    PATH#FIELD      what of a record is its text (`fields.py`) in json, jsonl, parquet, data sets; "text" when not given
    PATH:0.35       the share of this source in a mixture; PATH may itself contain ':' and '#'

One txt or md file is one document, unless it holds marks `<|endoftext|>`: then it is split there, and the line ends
around a mark belong to the mark. One line of jsonl, one item of a json list, one row is one document: a string, or an
object whose field is a string. Texts of white space alone are no documents. Line ends are left as they are. A text that
is null, or is not there, is passed over and counted; any other value that is no text is refused, with its place.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from positronic.data.sources.fields import columns, kind, lost, values
from positronic.data.sources.files import (
    PACKED,
    file_sha256,
    files_below,
    lines,
    missing,
    no_file,
    plain_suffix,
    text_chunks,
    utf8_name,
)
from positronic.data.sources.hub import NO_TEXT, PREFIX, HubSet, fetch, held_at, opaque
from positronic.data.sources.json_values import broken_json, json_values
from positronic.data.sources.parquet import rows
from positronic.errors import DataError

__all__ = ["DataSpec", "Document", "Places", "Source", "TextFiles", "open_source"]

MARK = "<|endoftext|>"
SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".parquet")
READER = 1
"""Version of how files become documents; part of every fingerprint."""
DOCUMENT = 1 << 30
"""Characters of the longest document that is read."""
PATIENCE = 1000
"""Records after which a field that none of them has is taken for a mistake."""

log = logging.getLogger(__name__)


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
        utf8_name(text)
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
        self._said = False
        """Whether a reading to the end has said what was passed over."""

    @cached_property
    def fingerprint(self) -> str:
        """Of the files' names and stored bytes."""
        return files_fingerprint(f"text {READER} {self.field}", self.path, self.files)

    def __iter__(self) -> Iterator[Document]:
        return self._read(None)

    def first(self, most: int) -> Iterator[Document]:
        """The documents of about the first `most` characters of each file, of which no more is read.

        A document of plain text that goes on behind them is cut there.
        """
        return self._read(most)

    def _read(self, most: int | None) -> Iterator[Document]:
        tally, found = _Tally(), False
        for path in self.files:
            for document in self._documents(path, most, tally):
                found = True
                yield document
        shown = Places(self.path)()
        if not found:
            why = "it holds no text. Put text in it, or leave it out."
            if tally.nothing:
                why = f"its {tally.nothing:,} texts ({self.field!r}) are null. Choose another field, or leave it out."
            raise DataError(f"{shown} is empty: {why}")
        if tally.nothing and not self._said:
            self._said = True
            log.warning("%s: %s", shown, tally)

    def _documents(self, path: Path, most: int | None, tally: "_Tally") -> Iterator[Document]:
        root = path.parent if path == self.path else self.path
        name = path.relative_to(root).as_posix()
        of_records = plain_suffix(path) in (".jsonl", ".json", ".parquet")
        parts = self._texts(path, Places(root), name, tally) if of_records else _marked(path, name, most)
        for where, text in parts:
            if text and not text.isspace():
                yield Document(text, where)
            if most is not None and (most := most - len(text) - 1) <= 0:  # so that empty ones come to an end too
                return

    def _texts(self, path: Path, places: "Places", name: str, tally: "_Tally") -> Iterator[tuple[str, str]]:
        """(place, text) of the records, "" where it is null; a field that no record has is an error."""
        absent: set[str] | None = None  # fields that no record has had so far
        for number, (where, record) in enumerate(records(path, name, self.field), start=1):
            if absent is None:
                first, absent = (record, where), self._lost(record)
            elif absent:
                absent &= self._lost(record)
            if absent and number == PATIENCE:
                break
            text = self._text(record, where, places)
            tally.read += 1
            if text is None:
                tally.first = tally.first or places(where)
                tally.nothing += 1
            yield where, text or ""
        if absent:
            columns(self.field, first[0], Places(self.path)(), places(first[1]))

    def _lost(self, record: Any) -> set[str]:
        return set(lost(self.field, record)) if isinstance(record, dict) else set()

    def _text(self, record: Any, where: str, places: "Places") -> str | None:
        """The text of a record; None if it has none."""
        try:
            texts = values(self.field, record) if isinstance(record, dict) else [record]
        except DataError as error:
            raise DataError(f"{places(where)} {error}") from error
        for value in texts:
            if value is not None and not isinstance(value, str):
                raise DataError(
                    f"{places(where)} has {kind(value)} where text should be ({self.field!r}). Write it as text, or "
                    f"choose another field."
                )
        if texts and all(value is None for value in texts):
            return None
        text = "\n\n".join(value for value in texts if value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{places(where)} holds half a surrogate pair, which is no character. Mend or delete it."
            ) from error
        return text


@dataclass
class _Tally:
    """How many of the texts that were read are null, and where the first of them stands."""

    read: int = 0
    nothing: int = 0
    first: str = ""

    def __str__(self) -> str:
        verb = "is" if self.nothing == 1 else "are"
        return f"{self.nothing:,} of {self.read:,} texts {verb} null and passed over, the first at {self.first}"


class Places:
    """How people find files and records below a root: rows that the cache holds, in the data set they came from."""

    def __init__(self, root: Path):
        self._root = root
        self._data_set = held_at(root)

    def __call__(self, where: str = "") -> str:
        """The place of a record or a file that stands at `where`, or of the root itself."""
        if self._data_set is None:
            return str(self._root / where)
        number = where.rpartition(":")[2]
        return f"{self._data_set}, row {number}" if number.isdecimal() else self._data_set


def find_files(path: Path, suffixes: tuple[str, ...], what: str) -> tuple[Path, ...]:
    """`path` itself, or the files below it that have one of the suffixes, sorted by name."""
    utf8_name(path)
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
    for entry in chosen:
        utf8_name(path / entry)
        if not (path / entry).is_file():
            raise no_file(path / entry)
    return tuple(path / entry for entry in chosen)


def files_fingerprint(how: str, root: Path, files: tuple[Path, ...]) -> str:
    """Hash of the reader's settings and of each file's place below `root` and stored bytes."""
    digest = hashlib.sha256(f"{how}\n".encode())
    for path in files:
        place = plain_suffix(path) if path == root else path.relative_to(root).as_posix()
        digest.update(f"{place}\n{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def records(path: Path, name: str, field: str | None = None) -> Iterator[tuple[str, Any]]:
    """(place, value) for each row, line of jsonl, item of a json list, or value of json.

    field: of parquet only the columns that it reads.
    """
    if plain_suffix(path) == ".parquet":
        yield from ((f"{name}:{number}", record) for number, record in rows(path, field))
    elif plain_suffix(path) == ".jsonl":
        for number, line in lines(path):
            if line.strip():
                yield f"{name}:{number}", _of_line(line, path, number)
    else:
        yield from ((f"{name}{where}", value) for where, value in json_values(text_chunks(path), str(path)))


def _of_line(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line, object_hook=opaque if NO_TEXT in line else None)
    except (RecursionError, ValueError) as error:
        raise broken_json(Places(path.parent)(f"{path.name}:{number}"), error) from error


def _marked(path: Path, name: str, most: int | None) -> Iterator[tuple[str, str]]:
    """(place, text) for what stands between marks; the whole file, untouched, when there is no mark."""
    held, index = "", 0
    for piece in text_chunks(path, most):
        start = max(0, len(held) - len(MARK))
        held += piece
        if held.find(MARK, start) >= 0:
            *ended, held = held.split(MARK)
            for text in ended:
                yield f"{name}[{index}]", text.strip("\r\n")
                index += 1
        if len(held) > DOCUMENT:
            raise DataError(
                f"{path} holds a document of more than {DOCUMENT:,} characters. Part it: a document is a file, or ends "
                f"at {MARK}."
            )
    yield (name, held) if index == 0 else (f"{name}[{index}]", held.strip("\r\n"))
