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


def columns(field: str, there: Collection[str]) -> list[str]:
    """The fields of the record itself that are read, of those `there`; the error says which there are."""
    if field in there:
        return [field]
    names = [part if part in there else part.partition(".")[0] for part in field.split("+")]
    if lost := [name for name in names if name not in there]:
        raise DataError(f"has no field {lost[0]!r}; its fields are {', '.join(there) or 'none'}")
    return names


def values(field: str, record: Mapping[str, Any]) -> list[Any]:
    """What stands in the fields that are read, in order."""
    if field in record:
        return [record[field]]
    found = []
    for name, part in zip(columns(field, record.keys()), field.split("+"), strict=True):
        inner = part[len(name) + 1 :]
        found += _inside(record[name], inner.split(".") if inner else [])
    return found


def _inside(value: Any, path: list[str]) -> list[Any]:
    if isinstance(value, list):
        return [found for item in value for found in _inside(item, path)]
    if not path:
        return [value]
    return _inside(value.get(path[0]), path[1:]) if isinstance(value, dict) else [None]
