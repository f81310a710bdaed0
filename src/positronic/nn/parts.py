"""A mixer made of parts: their states as one, and what they want computed once a call."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from positronic.state import State, Step

__all__ = ["PartsState", "prepared_by"]


@dataclass(frozen=True)
class PartsState(State):
    """States of several parts as one, None for a part that remembers nothing."""

    parts: tuple[State | None, ...]


def prepared_by(parts: Iterable[object], step: Step) -> dict[str, Any]:
    """What the parts want computed once a call, for a mixer's `prepare`; None wants nothing."""
    found: dict[str, Any] = {}
    for part in parts:
        if hasattr(part, "prepare"):
            found |= part.prepare(replace(step, shared={**step.shared, **found}))
    return found
