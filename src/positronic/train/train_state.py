"""Where a run stands and how often it stops to look: plain values around the loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from positronic.lm import LM

__all__ = ["Cadence", "Counters", "TrainState", "Validate"]

Validate = Callable[[LM], Mapping[str, float]]
"""Measures a model on held-out text; `bits_per_byte` says which checkpoint is best."""


@dataclass
class Counters:
    """What has happened so far."""

    step: int = 0
    tokens: int = 0
    bytes: int = 0
    skipped: int = 0
    seconds: float = 0.0
    """Wall time in the loop, validation and checkpoints included."""
    best_step: int | None = None
    best_bits_per_byte: float | None = None


@dataclass(frozen=True)
class Cadence:
    """How often what happens; 0 is never."""

    rows: int
    """Rows of a global batch."""
    micro_rows: int
    """Rows of one forward pass of one process."""
    evaluate_every: int = 0
    checkpoint_every: int = 0
    checkpoint_every_s: float = 0.0


@dataclass(frozen=True)
class TrainState:
    """Where a run stands."""

    counters: Counters
    stopped: str | None
    """finished; time; interrupted (the user asked); None: more steps follow."""
