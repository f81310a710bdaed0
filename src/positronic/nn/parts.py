"""The state of a mixer made of parts that each remember something of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from positronic.state import State

__all__ = ["PartsState"]


@dataclass(frozen=True)
class PartsState:
    """States of several parts as one, None for a part that remembers nothing."""

    parts: tuple[State | None, ...]

    def commit(self, path: Sequence[int]) -> "PartsState":
        return PartsState(tuple(None if part is None else part.commit(path) for part in self.parts))

    def select(self, rows: Tensor) -> "PartsState":
        return PartsState(tuple(None if part is None else part.select(rows) for part in self.parts))
