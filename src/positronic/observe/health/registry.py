"""How modules are read: by the kind of their config, a few statistics at their taps and what these say.

    @reads("moe", {"weights": share_of_experts})
    def routing(moe, seen):
        yield Reading("share of each expert", numbers(seen["weights"]), "starved expert" if ... else "")

A statistic takes the module and what passes the tap, (B, T, ...) without padding, and returns a small tensor; it runs
in the model's own forward, under a `Probe`. A kind may have several readers, and a reader whose taps are silent in a
module is not asked. A family adds its readings in a file of its own beside `organs`, imported in `__init__`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from positronic.observe.health.findings import FINDINGS

__all__ = ["READERS", "Reader", "Reading", "numbers", "reads"]

Statistic = Callable[[Any, Tensor], Tensor]
"""(module, x) -> a tensor of a few numbers."""
Read = Callable[[Any, Mapping[str, Tensor]], "Iterable[Reading]"]
"""(module, statistics by tap) -> readings."""


@dataclass(frozen=True)
class Reading:
    """One thing about one module."""

    name: str
    values: tuple[float, ...]
    """One, or one for each ring, gate, head or expert."""
    finding: str = ""
    """A name in `FINDINGS`; "" for nothing."""
    detail: str = ""
    """Which of several things it is, where that is not plain."""

    def __post_init__(self) -> None:
        assert not self.finding or self.finding in FINDINGS, self.finding


@dataclass(frozen=True)
class Reader:
    taps: Mapping[str, Statistic]
    read: Read


READERS: dict[str, list[Reader]] = {}
"""By kind of module; filled when the package is imported, by `reads`."""


def reads(kind: str, taps: Mapping[str, Statistic]) -> Callable[[Read], Read]:
    """Register a function as a reader of modules whose config is of this kind."""

    def register(read: Read) -> Read:
        watched = {tap for reader in READERS.get(kind, ()) for tap in reader.taps}
        assert not watched & taps.keys(), f"two readers of {kind} at {watched & taps.keys()}"
        READERS.setdefault(kind, []).append(Reader(taps, read))
        return read

    return register


def numbers(x: Tensor) -> tuple[float, ...]:
    return tuple(x.detach().flatten().tolist())
