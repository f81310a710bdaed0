"""Memories apart from their conversation: stores of specialists and stations, fast weights of controllers.

What was said, keys and values, and the last tokens of lookups stay behind; what was learned while reading goes on.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from positronic.state import DecodeState, Memory

__all__ = ["memories_in", "with_memories"]


def memories_in(value: Any) -> Iterator[Memory]:
    """All memories inside a state, in order."""
    if isinstance(value, Memory):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from memories_in(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from memories_in(getattr(value, field.name))


def with_memories(fresh: DecodeState, memories: Iterable[Memory]) -> DecodeState:
    """`fresh`, a state that has read nothing, with these memories in the place of its own."""
    return dataclasses.replace(fresh, layers=_filled(fresh.layers, iter(memories)))


def _filled(value: Any, memories: Iterator[Memory]) -> Any:
    if isinstance(value, Memory):
        return next(memories).carried()
    if isinstance(value, tuple):
        return tuple(_filled(part, memories) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and any(memories_in(value)):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: _filled(part, memories) for name, part in parts.items()})
    return value
