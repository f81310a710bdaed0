"""What `#FIELD` reads of a record.

    A        the field A
    A+B      the texts of A and of B, an empty line between them; those that are empty are left out
    A.B      field B of the object A, or of every object in the list A, joined likewise

A name that a record has is that field, whatever signs it holds.
"""

from collections.abc import Collection, Mapping
from typing import Any

from positronic.errors import DataError

__all__ = ["columns", "values"]


def columns(field: str, there: Collection[str], data: object, place: str = "") -> list[str]:
    """The fields of the record itself that are read, of those `there`.

    data, place: what was named, and where in it the record stands, for the error.
    """
    if field in there:
        return [field]
    names = [part if part in there else part.partition(".")[0] for part in field.split("+")]
    if lost := [name for name in names if name not in there]:
        has = ", ".join(there) or "none"
        raise DataError(f"{place or data} has no field {lost[0]!r}; its fields are {has}. Choose one: {data}#FIELD.")
    return names


def values(field: str, record: Mapping[str, Any], data: object, place: str) -> list[Any]:
    """What stands in the fields that are read, in order."""
    if field in record:
        return [record[field]]
    found = []
    for name, part in zip(columns(field, record.keys(), data, place), field.split("+"), strict=True):
        inner = part[len(name) + 1 :]
        found += _inside(record[name], inner.split(".") if inner else [])
    return found


def _inside(value: Any, path: list[str]) -> list[Any]:
    if isinstance(value, list):
        return [found for item in value for found in _inside(item, path)]
    if not path:
        return [value]
    return _inside(value.get(path[0]), path[1:]) if isinstance(value, dict) else [None]
