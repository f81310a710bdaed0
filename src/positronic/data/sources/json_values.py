"""The values of a .json file, one after the other, of which one at a time is in memory.

[A, B, ...]     A, B, ...           a list is read item by item
A B ...         A, B, ...           one value, or several, as a program writes them that adds a line a record
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from positronic.data.sources.files import WHOLE
from positronic.errors import DataError

__all__ = ["broken_json", "json_values"]

_SPACE = re.compile(r"[ \t\n\r]*")
_NEAR = 16
"""Characters from the end of what was read within which an error may come of the rest that is not there yet."""


def json_values(pieces: Iterable[str], place: str) -> Iterator[tuple[str, Any]]:
    """(where, value) for the values of a text that comes in pieces: `[index]` in a list, `:line` of several values.

    One value that is no list is `[0]`. place: where the text stands, for `DataError`.
    """
    reader = _Reader(pieces, place)
    yield from _of_list(reader) if reader.sign() == "[" else _one_by_one(reader)


def _of_list(reader: "_Reader") -> Iterator[tuple[str, Any]]:
    reader.skip()
    index = 0
    while index or reader.sign() != "]":
        yield f"[{index}]", reader.value()
        index += 1
        if reader.sign() == "]":
            break
        if reader.sign() != ",":
            raise reader.error("Expecting ',' delimiter")
        reader.skip()
    reader.skip()
    if reader.sign():
        raise reader.error("Extra data")


def _one_by_one(reader: "_Reader") -> Iterator[tuple[str, Any]]:
    several = False
    while reader.sign():
        line, value = reader.line, reader.value()
        several = several or bool(reader.sign())
        yield f":{line}" if several else "[0]", value


def broken_json(place: str, error: ValueError | RecursionError) -> DataError:
    """What kept JSON from being read, in a sentence."""
    if not isinstance(error, json.JSONDecodeError):
        return DataError(f"{place} is JSON that cannot be read: {error}. Mend or delete it.")
    at = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
    return DataError(f"{place} is broken JSON: {error.msg} at {at}. Mend or delete it.")


class _Reader:
    """A text of which a part is held, and where in it the reading has come."""

    def __init__(self, pieces: Iterable[str], place: str):
        self._pieces, self._place = iter(pieces), place
        self._text, self._at = "", 0
        self._line, self._column = 1, 1
        """Of the first character that is held."""
        self._decoder = json.JSONDecoder()

    def sign(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None, "it matches nothing too"
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    @property
    def line(self) -> int:
        """That of the sign."""
        return self._position(self._at)[0]

    def skip(self) -> None:
        """Go on behind the sign."""
        self._at += 1

    def value(self) -> Any:
        """The next value."""
        self.sign()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                open_end = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _NEAR
                if not (open_end and self._more()):
                    raise self.error(error.msg, error.pos) from error
            except (RecursionError, ValueError) as error:
                raise broken_json(self._place, error) from error
            else:
                if end < len(self._text) or not self._more():  # what was held may end within a number
                    self._at = end
                    return value

    def error(self, what: str, at: int | None = None) -> DataError:
        """That the text breaks off at a character, by default the next."""
        error = json.JSONDecodeError(what, "", 0)
        error.lineno, error.colno = self._position(self._at if at is None else at)
        return broken_json(self._place, error)

    def _position(self, at: int) -> tuple[int, int]:
        """Line and column of a character that is held."""
        ends = self._text.count("\n", 0, at)
        column = at - self._text.rfind("\n", 0, at) if ends else self._column + at
        return self._line + ends, column

    def _more(self) -> bool:
        """Let go of what was read, and double what is held behind it; whether there was more."""
        held = self._text[self._at :]
        if len(held) > WHOLE:
            raise DataError(
                f"{self._place} holds a value of more than {WHOLE >> 20} MiB, and a value is read whole. Write a list, "
                f"or jsonl: one record a line."
            )
        parts, size = [held], 0
        while size <= len(held) and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            size += len(piece)
        if not size:
            return False
        self._line, self._column = self._position(self._at)
        self._text, self._at = "".join(parts), 0
        return True
