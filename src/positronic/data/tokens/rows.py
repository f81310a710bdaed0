"""Tables of rows that can be read in any order, and their shares of a mixture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Any, NamedTuple, Protocol

import numpy as np

from positronic.errors import DataError

__all__ = ["Rows", "Weighted", "Windows", "check", "shares", "whole_weights"]


class Windows(NamedTuple):
    """n rows of T+1 tokens."""

    ids: np.ndarray
    """(n, T+1) integers."""
    counted: np.ndarray | None = None
    """(n, T+1) bool: carries loss when it is a target; None: all do."""
    real: np.ndarray | None = None
    """(n, T+1) bool: False at padding; None: no padding."""


class Rows(Protocol):
    """A finite table of rows that can be read in any order."""

    name: str
    fingerprint: str
    """Hash of the content and of how it is cut into rows."""
    seq_len: int
    n_rows: int
    n_tokens: int
    pads: bool
    """Whether rows may end in padding."""
    none_because: str
    """Where there are no rows: why, and what to do."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """What else to say of it: documents, conversations cut or dropped."""
        ...

    def read(self, rows: np.ndarray) -> Windows: ...


@dataclass(frozen=True)
class Weighted:
    """Rows and their share of the mixture's tokens, relative to the others'."""

    rows: Rows
    weight: float | Fraction | None = None
    """None, for all sources or for none: in proportion to their sizes, so that all end their epochs together."""


def check(sources: Sequence[Weighted]) -> None:
    if not sources:
        raise DataError("There is no data: name at least one text, as --data PATH.")
    for source in sources:
        rows = source.rows
        if rows.n_rows == 0:
            raise DataError(f"{rows.name} {rows.none_because}")
        if source.weight is not None and not 0 < source.weight < float("inf"):
            raise DataError(f"{rows.name} has weight {source.weight}; give a positive number, or leave the source out.")
    lengths = {source.rows.seq_len for source in sources}
    assert len(lengths) == 1, f"rows of different lengths in one mixture: {lengths}"
    without = [source.rows.name for source in sources if source.weight is None]
    if without and len(without) < len(sources):
        raise DataError(
            f"{', '.join(without)} has no weight while others have; write PATH:WEIGHT for all, or for none."
        )


def shares(sources: Sequence[Weighted], total: float) -> list[Weighted]:
    """The same sources with `total` shared out among them as their weights say."""
    check(sources)
    weights = whole_weights(sources)
    whole = Fraction(repr(total)) / sum(weights)
    return [Weighted(source.rows, weight * whole) for source, weight in zip(sources, weights, strict=True)]


def whole_weights(sources: Sequence[Weighted]) -> list[int]:
    """The shares as whole numbers without a common factor; decimals are taken as written (0.1 is one tenth)."""
    parts = [_fraction(source) for source in sources]
    scale = lcm(*(part.denominator for part in parts))
    whole = [int(part * scale) for part in parts]
    return [weight // gcd(*whole) for weight in whole]


def _fraction(source: Weighted) -> Fraction:
    if source.weight is None:
        return Fraction(source.rows.n_rows)
    return source.weight if isinstance(source.weight, Fraction) else Fraction(repr(float(source.weight)))
