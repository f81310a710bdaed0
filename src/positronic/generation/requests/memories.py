"""Memories apart from their conversation: stores of specialists and stations, fast weights of controllers.

What was said, keys and values, and the last tokens of lookups stay behind; what was learned while reading goes on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from positronic.state import DecodeState, Memory
from positronic.tree import exchanged, nodes

__all__ = ["memories_in", "with_memories"]


def memories_in(state: Any) -> Iterator[Memory]:
    """All memories inside a state, in order."""
    return (node for node in nodes(state) if isinstance(node, Memory))


def with_memories(fresh: DecodeState, memories: Iterable[Memory]) -> DecodeState:
    """`fresh`, a state that has read nothing, with these memories in the place of its own."""
    given = iter(memories)
    return replace(fresh, layers=exchanged(fresh.layers, Memory, lambda _: next(given).carried()))
