"""What `#FIELD` reads of a record.

    A        the field A
    A+B      the texts of A and of B, an empty line between them; those that are empty are left out
    A.B      field B of the object A, or of every object in the list A, joined likewise

A name that a record has is that field, whatever signs it holds. A field that a record lacks is null in it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from positronic.errors import DataError

__all__ = ["Opaque", "columns", "kind", "lost", "values"]


@dataclass(frozen=True)
class Opaque:
    """A value that JSON does not have, of which only its kind was kept; no reader takes it for text."""

    kind: str


def kind(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, Opaque):
        return value.kind
    return next((name for of, name in _KINDS if isinstance(value, of)), f"a value of the type {type(value).__name__}")


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (str, "text"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (Mapping, "an object"),
    ((list, tuple), "a list"),
    ((bytes, bytearray, memoryview), "bytes"),
    (Decimal, "a decimal number"),
    (datetime, "a date and time"),
    (date, "a date"),
    (time, "a time"),
    (timedelta, "a length of time"),
)


def lost(field: str, there: Collection[str]) -> list[str]:
    """Of the fields of the record itself that are read, those that are not `there`."""
    return [] if field in there else [name for name in _names(field, there) if name not in there]


def columns(field: str, there: Collection[str], data: object, place: str = "") -> list[str]:
    """The fields of the record itself that are read; all of them must be `there`.

    data, place: what was named, and where in it the record stands, for the error.
    """
    if absent := lost(field, there):
        has = ", ".join(there) or "none"
        raise DataError(f"{place or data} has no field {absent[0]!r}; its fields are {has}. Choose one: {data}#FIELD.")
    return [field] if field in there else _names(field, there)


def _names(field: str, there: Collection[str]) -> list[str]:
    return [part if part in there else part.partition(".")[0] for part in field.split("+")]


def values(field: str, record: Mapping[str, Any]) -> list[Any]:
    """What stands in the fields that are read, in order; None where there is nothing.

    Where an object should be and is not, `DataError` says what is there, to be put behind the record's place.
    """
    if field in record:
        return [record[field]]
    found = []
    for name, part in zip(_names(field, record), field.split("+"), strict=True):
        inner = part[len(name) + 1 :]
        found += _inside(record.get(name), inner.split(".") if inner else [])
    return found


def _inside(value: Any, path: list[str]) -> list[Any]:
    """What `path` leads to, in every object of the lists on the way."""
    found, waiting = [], [(value, 0)]  # the next one last, and how far on the path it stands
    while waiting:
        value, at = waiting.pop()
        if isinstance(value, list):
            waiting += [(item, at) for item in reversed(value)]
        elif at == len(path) or value is None:
            found.append(value)
        elif isinstance(value, dict):
            waiting.append((value.get(path[at]), at + 1))
        else:
            raise DataError(f"has {kind(value)} where an object with {path[at]!r} should be. Choose another field.")
    return found
