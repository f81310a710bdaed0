"""Ctrl-C as a wish, not a blow: the step at hand is finished and saved first. A second Ctrl-C strikes at once.

Signals that arrive together count once: `torchrun` passes on a Ctrl-C that the terminal has sent to everybody already.
"""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interrupt"]

TOGETHER_S = 1.0


class Interrupt:
    """Inside the block, SIGINT and SIGTERM set `asked`; another one, later, raises KeyboardInterrupt."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.asked = False
        self._clock, self._asked_at = clock, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._wish) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _wish(self, number: int, frame: FrameType | None) -> None:
        if self.asked and self._clock() - self._asked_at > TOGETHER_S:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._asked_at = True, self._clock()
