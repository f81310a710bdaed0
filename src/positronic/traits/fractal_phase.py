"""Fractal phases: where the orbit of each token's own point of the Mandelbrot plane points to, step by step.

    c_v     = (-2 + 2.5 h_2(v + 1), -1.25 + 2.5 h_3(v + 1))            h_b: van der Corput's sequence in base b
    z_0     = 0;  z <- z^2 + c;  z <- z / 4 where |z| > 2              one column a step
    Phi     = k pi / 2^13,  k = round(atan2(im z, re z) 2^13 / pi)     half away from zero, int16
    level j : the same orbit of c + 2^-j d_j                           d_j in [-1/2, 1/2)^2, by h in the next two bases

Orbits are chaotic: a last bit that differs between two machines would be another table after some fifty steps. So c
and z are integers in units of 2^-28, products are shifted down (rounded to minus infinity), and only the angle is a
float, whose own rounding the int16 hides: of the 16,512 x 508 angles none is nearer than 6e-8 to where k would change,
and float64 errs by some 1e-12. The division by 4 keeps the angle, and all products below 2^62.

Shapes   table (W, C) int16, C = N columns; value (B, T, N) float32, radians in [-pi, pi].
State    none: a token's row follows from its id.
Cost     a row of N int16 a token, once for all layers; the table takes 0.2 s at W = 16,512, N = 508.
Init     no parameters; the table follows from its two extents and is never saved. Its SHA-256 may be pinned.
Source   the published oscillator model; rounding, start and order of test and angle are fixed here.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from positronic.config import AtMost, OrganConfig
from positronic.errors import ConfigError
from positronic.nn import init
from positronic.nn.halton import van_der_corput
from positronic.state import Step

__all__ = ["FractalPhase", "FractalPhaseConfig", "fractal_rows", "fractal_sha256", "fractal_table"]

FRACTION_BITS = 28
ANGLE_STEPS = 2**13
"""Steps of the angle in half a turn."""
MOST_ANGLES = 2**27
"""Of a table: 256 MiB, made in three seconds."""
BASES = ((2, 3), (5, 7), (11, 13), (17, 19))
"""Of the points of each level."""


@dataclass(frozen=True, kw_only=True)
class FractalPhaseConfig(OrganConfig, kind="fractal_phase"):
    levels: Annotated[int, AtMost(64)] = 1
    """Orbits a token, each around a point nearer to the first; the columns are shared out evenly among them."""
    sha256: str | None = None
    """Hash that the table must have, as `positronic fractal build` prints it; None: whatever this build makes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.levels)
        if self.sha256 is not None and (len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef")):
            raise ConfigError(
                f"fractal_phase.sha256 is {self.sha256[:80]!r}; give 64 lower-case hex digits, or none for no check."
            )

    def fitted(self, vocab_size: int, rings: tuple[int, ...]) -> "FractalPhaseConfig":
        """The same with the hash of its table for this vocabulary, which every later build must then have.

        A hash that is there already stays: another build's table is refused, not taken over.
        """
        if self.sha256 is not None:
            return self
        return self.replace(sha256=fractal_sha256(fractal_table(vocab_size, sum(rings), self.levels)))

    def build_shared(self, vocab_size: int, rings: tuple[int, ...]) -> "FractalPhase":
        """The part of the model, whose value the layers read as `step.shared["fractal_phase"]`."""
        return FractalPhase(self, vocab_size, sum(rings))


def fractal_table(vocab_size: int, columns: int, levels: int = 1) -> np.ndarray:
    """The int16 table (W, C) for a vocabulary: angles in units of pi / 2^13."""
    return fractal_rows(np.arange(vocab_size), columns, levels)


def fractal_rows(tokens: np.ndarray, columns: int, levels: int = 1) -> np.ndarray:
    """The rows of these ids (n,) -> (n, C) int16; the first C / levels columns are level 0."""
    _check(levels, columns)
    if len(tokens) * columns > MOST_ANGLES:
        raise ConfigError(
            f"The fractal table of {len(tokens)} tokens and {columns} oscillators has more than {MOST_ANGLES:,} "
            f"angles; use fewer oscillators or a smaller vocabulary."
        )
    index = np.asarray(tokens, np.int64) + 1
    length = columns // levels
    angles = np.empty((columns, len(index)), np.int16)
    for level in range(levels):
        re, im = np.zeros((2, len(index)), np.int64)
        c_re, c_im = _points(index, level)
        for column in range(level * length, (level + 1) * length):
            re, im = ((re * re - im * im) >> FRACTION_BITS) + c_re, ((2 * re * im) >> FRACTION_BITS) + c_im
            outside = re * re + im * im > 4 << 2 * FRACTION_BITS
            re, im = re >> 2 * outside, im >> 2 * outside
            exact = np.arctan2(im, re) * (ANGLE_STEPS / math.pi)
            angles[column] = np.trunc(exact + np.copysign(0.5, exact))
    return np.ascontiguousarray(angles.T)


def fractal_sha256(table: np.ndarray) -> str:
    """SHA-256 of a table's numbers, row by row, two bytes each, the lower first."""
    return hashlib.sha256(np.ascontiguousarray(table, "<i2").tobytes()).hexdigest()


class FractalPhase(nn.Module):
    """The table and its lookup: `(step, state)` -> (B, T, N), None."""

    table: Tensor

    def __init__(self, config: FractalPhaseConfig, vocab_size: int, columns: int):
        super().__init__()
        _check(config.levels, columns)
        self.config = config
        self.register_buffer("table", torch.empty(vocab_size, columns, dtype=torch.int16), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.table.is_meta:
            return
        vocab_size, columns = self.table.shape
        table = fractal_table(vocab_size, columns, self.config.levels)
        made, asked = fractal_sha256(table), self.config.sha256
        if asked not in (None, made):
            raise ConfigError(
                f"fractal_phase.sha256 asks for {asked}, and the table for {vocab_size} tokens and {columns} "
                f"oscillators has {made}. Set it to that or to none for a new model; for a trained one, use the "
                f"vocabulary, the rings and the build of positronic that it was trained with."
            )
        init.copy_(self.table, torch.from_numpy(table))

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, step: Step, state: None = None) -> tuple[Tensor, None]:
        return self.table[step.tokens].float() * (math.pi / ANGLE_STEPS), None


def _points(index: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """c of each index in units of 2^-28, rounded down: re, im (n,) int64."""
    (re, of_re), (im, of_im) = (van_der_corput(index, base) for base in BASES[0])
    c_re = ((5 * re - 4 * of_re) << FRACTION_BITS - 1) // of_re
    c_im = (5 * (2 * im - of_im) << FRACTION_BITS - 2) // of_im
    if level == 0:
        return c_re, c_im
    (re, of_re), (im, of_im) = (van_der_corput(index, base) for base in BASES[level])
    return (
        c_re + ((2 * re - of_re) << FRACTION_BITS - 1 - level) // of_re,
        c_im + ((2 * im - of_im) << FRACTION_BITS - 1 - level) // of_im,
    )


def _check(levels: int, columns: int | None = None) -> None:
    if not 1 <= levels <= len(BASES):
        raise ConfigError(f"fractal_phase.levels is {levels}; use 1 to {len(BASES)}.")
    if columns is not None and (columns < 1 or columns % levels):
        raise ConfigError(
            f"fractal_phase.levels is {levels}, which does not share {columns} columns out evenly; use a divisor of "
            f"the number of oscillators (1 fits any)."
        )
