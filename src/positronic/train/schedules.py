"""Learning-rate schedules: pure functions of the step, so that a run cut in pieces equals the run in one piece.

    warm-up   s(n) = (n + 1) / warmup                                   n < warmup
    cosine    s(n) = floor + (1 - floor) (1 + cos(pi p)) / 2            p = (n - warmup) / (total - warmup)
    wsd       s(n) = 1 until n = total - decay, then linear to 0 at n = total

s(n) multiplies the peak rate in step n, the first step being 0. A `wsd` run knows nothing of its end before the decay
begins, so it can be prolonged, or cut to a given time, without having been another run.

Source   cosine: Loshchilov and Hutter 2017, arXiv 1608.03983; wsd: Hu et al. 2024, "MiniCPM", arXiv 2404.06395.
"""

import math
from dataclasses import dataclass
from typing import Literal

from positronic.config import Config
from positronic.errors import ConfigError

__all__ = ["WARMUP", "ScheduleConfig"]

WARMUP = 100
"""Steps of warm-up where nobody asks for another number."""
UNREAD = (("wsd", "floor", "wsd falls to 0"), ("cosine", "decay_share", "cosine falls from the warm-up on"))
"""What a shape does not read, and why."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Config, kind="schedule"):
    shape: Literal["wsd", "cosine"] = "wsd"
    """What follows the warm-up: stable then linear decay, or half a cosine."""
    warmup: int | None = None
    """Steps from almost 0 to the peak. None: 100, or a tenth of the run where that is less."""
    decay_share: float = 0.2
    """wsd: share of all steps that the final decay takes."""
    floor: float = 0.1
    """cosine: what is left of the peak rate at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.warmup is not None and self.warmup < 0) or not 0 < self.decay_share <= 1 or not 0 <= self.floor <= 1:
            raise ConfigError(
                f"schedule has warmup {self.warmup}, decay_share {self.decay_share} and floor {self.floor}; "
                f"use a warmup of 0 or more, a decay_share in (0, 1] and a floor in [0, 1]."
            )
        for shape, name, why in UNREAD:
            if self.shape == shape and getattr(self, name) != getattr(ScheduleConfig, name):
                raise ConfigError(
                    f"schedule.{name} is {getattr(self, name)}, which changes nothing: {why}. Leave it out, or use "
                    f"--schedule {'cosine' if shape == 'wsd' else 'wsd'}."
                )

    def scale(self, step: int, total: int) -> float:
        """What the peak rate is multiplied by in `step` = 0, 1, ..., total - 1."""
        warmup = min(WARMUP, total // 10) if self.warmup is None else self.warmup
        rising = min(1.0, (step + 1) / max(1, warmup))
        if self.shape == "wsd":
            return min(rising, (total - step) / max(1, self.decay_steps(total)))
        progress = max(0, step - warmup) / max(1, total - warmup)
        return rising * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress)))

    def decay_steps(self, total: int) -> int:
        """Steps at the end in which a wsd rate falls."""
        return round(self.decay_share * total)
