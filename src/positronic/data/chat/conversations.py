"""Conversations out of files, in whatever format they were published (`formats.py`), as messages and as tokens.

    json, jsonl     one record a conversation; a json object of records by id is read as a list of them
    tsv             question, answer, rationale
    parquet         one row a conversation
    hf:NAME         a data set of the Hugging Face hub, or a local one in its forms (`sources/hub.py`)
    each but the last two plain, .gz, .xz or .zst; or folders of files

Texts are learned as they are written. Where it is asked for, `{{name}}` and `{{author}}` in them are filled with what
the model is to call itself and its makers. Conversations end with their last assistant turn; those without one teach
nothing and are passed over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from positronic.config import canonical_json
from positronic.data.chat.formats import FORMATS, from_columns, from_record, present, unreadable
from positronic.data.chat.turns import check_depth
from positronic.data.sources.documents import DataSpec, Source, files_fingerprint, find_files, records
from positronic.data.sources.files import lines, plain_suffix
from positronic.data.sources.hub import HubSet
from positronic.data.sources.split import text_hash
from positronic.data.tokens.encode import Encoded, id_type
from positronic.errors import DataError
from positronic.text import Message, Tokenizer, render

__all__ = ["NAMES", "UNFILLED", "ChatFiles", "Conversation", "columnar", "encode_chats", "open_chats", "placed"]

SUFFIXES = (".jsonl", ".json", ".tsv", ".parquet")
NAMES: Mapping[str, str] = MappingProxyType({"name": "Positron", "author": "the positronic authors"})
"""What `{{name}}` and `{{author}}` are filled with, where it is asked for."""
UNFILLED: Mapping[str, str] = MappingProxyType({})
"""Texts stay as they are written."""
READER = 3
"""Version of how records become messages; part of every fingerprint."""


@dataclass(frozen=True)
class Conversation:
    """Messages from first to last, and where they came from."""

    messages: tuple[Message, ...]
    name: str

    @property
    def text_hash(self) -> int:
        """The first 8 bytes of the sha256 of what is said, as a number."""
        return text_hash(canonical_json([message.to_dict() for message in self.messages]))


def open_chats(spec: DataSpec | str | Path, names: Mapping[str, str] = UNFILLED) -> "ChatFiles":
    """The conversations at `PATH`, with `names` filled in; a weight is for the mixture and changes nothing here."""
    spec = DataSpec.of(spec)
    if spec.field is not None:
        raise DataError(f"{spec.path}#{spec.field} names a field, but chats are known by their format; leave it out.")
    return ChatFiles(*spec.on_disk(None), names, spec.path if isinstance(spec.path, HubSet) else None)


class ChatFiles:
    """The conversations of one file, or of all files of a folder."""

    def __init__(self, path: Path, name: str, names: Mapping[str, str] = UNFILLED, rows_of: HubSet | None = None):
        """rows_of: the data set whose rows the file at `path` holds."""
        self.path, self.name, self.names, self.rows_of = path, name, dict(names), rows_of
        self.files = find_files(path, SUFFIXES, "conversations")

    @cached_property
    def fingerprint(self) -> str:
        """Of the reader, the names filled in, and the files' names and stored bytes."""
        how = f"chat {READER} {canonical_json(self.names)}{' rows' if self.rows_of else ''}"
        return files_fingerprint(how, self.path, self.files)

    def __iter__(self) -> Iterator[Conversation]:
        found = False
        for path in self.files:
            for conversation in self._conversations(path):
                found = True
                yield conversation
        if not found:
            raise DataError(
                f"{self.path} is empty: no assistant says anything in it. Put chats in it, or leave it out."
            )

    def _conversations(self, path: Path) -> Iterator[Conversation]:
        root = path.parent if path == self.path else self.path
        for where, record in _records(path, path.relative_to(root).as_posix()):
            try:
                messages = self._read(path, record)
            except DataError as error:
                place = placed(root / where, self.rows_of)
                raise unreadable(place, "conversation that can be read", error) from error
            if messages:
                yield Conversation(tuple(messages), where)

    def _read(self, path: Path, record: Any) -> list[Message]:
        """The messages of a record, to the assistant's last; none if it says nothing."""
        check_depth(record)
        record = _filled(record, self.names) if self.names else record
        if plain_suffix(path) == ".tsv":
            messages = from_columns(record)
        else:
            messages = from_record(present(record) if columnar(path, self.rows_of) else record)
        while messages and messages[-1].role != "assistant":
            messages.pop()
        return messages


def columnar(path: Path, rows_of: HubSet | None) -> bool:
    """Whether the rows of a file were columns, whose objects all have the same fields, null where there was none."""
    return rows_of is not None or plain_suffix(path) == ".parquet"


def placed(place: Path, rows_of: HubSet | None) -> str:
    """Where a record stands, as the user named it: of a data set the row, and not the file that keeps its rows."""
    return str(place) if rows_of is None else f"{rows_of}, row {place.name.rpartition(':')[2]},"


def encode_chats(source: Source[Conversation], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Each conversation in the chat form, then `eot_id`, with what of it carries loss."""
    width = id_type(tokenizer)
    for conversation in source:
        rendered = render(tokenizer, conversation.messages)
        ids = np.array([*rendered.ids, tokenizer.eot_id], width)
        yield Encoded(ids, tokenizer.n_bytes(ids), np.array([*rendered.loss_mask, False]))


def _records(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    if plain_suffix(path) == ".tsv":
        for number, line in lines(path):
            if line.strip():
                yield f"{name}:{number}", line.removesuffix("\r").split("\t")
        return
    for where, record in records(path, name):
        by_id = isinstance(record, dict) and record and all(_is_chat(value) for value in record.values())
        if by_id and where == f"{name}[0]":
            for key, value in record.items():
                yield f"{name}[{key.encode('utf-8', 'backslashreplace').decode()}]", value
        else:
            yield where, record


def _is_chat(value: Any) -> bool:
    return isinstance(value, dict) and any(set(each.fields) <= value.keys() for each in FORMATS)


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    """The record with the names in all its strings."""
    if isinstance(value, str):
        for name, meaning in names.items():
            value = value.replace("{{" + name + "}}", meaning)
        return value
    if isinstance(value, list):
        return [_filled(item, names) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, names) for key, item in value.items()}
    return value
