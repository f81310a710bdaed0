"""How long a run is: a number of steps, or as many as fit into a given time.

    N = now + (budget - elapsed - reserve) / seconds per step          measured at steps 4, 5, 6, 7, 8, 10, ...

A timed run fixes N before anything that depends on it is used: `cosine` when its warm-up ends, `wsd` when its decay
begins. The rates of all steps are then those of a run that was given N from the start.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from positronic.train.schedules import ScheduleConfig

__all__ = ["RunLength"]

TIMED_WARMUP = 30
"""Steps of warm-up in a timed run, which warms up before it knows its length."""
FIRST_LOOK = 4
"""Step after which the speed is first measured; the first two steps, which warm things up, are left out."""
SETTLED = 2
OVERDUE = 1.05
"""A timed run that reaches this share of its time stops where it is."""
log = logging.getLogger(__name__)


class RunLength:
    """Total steps and the rate of each. `steps` is given, or grows out of `minutes`."""

    def __init__(self, schedule: ScheduleConfig, *, steps: int, minutes: float | None = None):
        if minutes is not None and schedule.warmup is None:
            schedule = schedule.replace(warmup=TIMED_WARMUP)
        self.schedule, self.limit, self.minutes = schedule, steps, minutes
        self.total: int | None = steps if minutes is None else None
        self.fixed = minutes is None
        self._next_look = FIRST_LOOK
        self._settled_at: tuple[int, float] | None = None
        self.reserve_s = 0.0
        """Time to keep for what follows the last step: evaluation and checkpoint."""

    def scale(self, step: int) -> float:
        """Share of the peak rate that `step` = 0, 1, ... takes."""
        far = 1 << 62
        return self.schedule.scale(step, far if self.total is None else self.total)

    def ends(self, step: int, elapsed_s: float) -> str | None:
        """Why no step follows after `step` of them: "finished", "time", or None: one does."""
        if step >= (self.limit if self.total is None else self.total):
            return "finished"
        late = self.minutes is not None and elapsed_s + self.reserve_s > OVERDUE * 60 * self.minutes
        return "time" if late else None

    def observe(self, step: int, elapsed_s: float, agreed: Callable[[float], float]) -> None:
        """After `step` steps in `elapsed_s`: look at the clock, if the length is still open and a look is due."""
        if self.fixed or step < SETTLED:
            return
        if self._settled_at is None:
            self._settled_at = step, elapsed_s
            return
        if step < self._next_look and not self._must_fix(step):
            return
        self._next_look = max(step + 1, step * 5 // 4)
        first, since = self._settled_at
        seconds = max(1e-6, (elapsed_s - since) / (step - first))
        left = max(0.0, 60 * (self.minutes or 0.0) - elapsed_s - self.reserve_s)
        self.total = min(self.limit, self._earliest(step, step + int(agreed(left / seconds))))
        self.fixed = self._must_fix(step)
        if self.fixed:
            log.info("this run takes %d steps: %.3g minutes at %.3g s a step", self.total, self.minutes, seconds)

    def state(self) -> dict[str, Any]:
        return {"total": self.total, "fixed": self.fixed, "next_look": self._next_look}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.total, self.fixed, self._next_look = state["total"], bool(state["fixed"]), int(state["next_look"])

    def _must_fix(self, step: int) -> bool:
        """Whether the next step's rate depends on the total."""
        if self.schedule.shape == "cosine":
            return step >= (self.schedule.warmup or 0)
        return self.total is not None and step + 1 >= self.total - self.schedule.decay_steps(self.total)

    def _earliest(self, step: int, total: int) -> int:
        """`total`, or the nearest later one whose decay has not begun before `step`."""
        while self.schedule.shape == "wsd" and total - self.schedule.decay_steps(total) < step:
            total += 1
        return max(total, step + 1)
