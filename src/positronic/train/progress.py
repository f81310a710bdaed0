"""Progress of a run on a terminal: a bar where `rich` is installed and somebody looks, else a line now and then."""

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TextIO

from positronic.train.observers import Event, Observer

__all__ = ["progress"]


def progress(out: TextIO | None = None) -> Observer:
    """The bar or the lines, whichever suits `out` (standard error by default)."""
    out = out or sys.stderr
    return _Bar(out) if out.isatty() and find_spec("rich") is not None else _Lines(out)


class _Lines:
    """The first step, then one line every few seconds, and the last step."""

    def __init__(self, out: TextIO, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic):
        self._out, self._every_s, self._clock, self._due = out, every_s, clock, -1.0

    def step(self, event: Event) -> None:
        now = self._clock()
        if now >= self._due or event["step"] == event["total"] or "fault" in event:
            self._due = now + self._every_s
            self._say(f"step {event['step']}/{event['total'] or '?'}  {_words(event)}")

    def evaluation(self, event: Event) -> None:
        self._say(_evaluation(event))

    def checkpoint(self, event: Event) -> None:
        self._say(f"checkpoint {event['folder']}")

    def close(self) -> None:
        pass

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class _Bar:
    """A bar with loss, bits per byte, speed and the time left; evaluations are printed above it."""

    def __init__(self, out: TextIO):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            BarColumn(),
            TextColumn("{task.completed}/{task.fields[of]}"),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self._bar = Progress(*columns, console=Console(file=out, markup=False), transient=False)
        self._task: Any = None

    def step(self, event: Event) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", of="?", words="")
            self._bar.start()
        total = event["total"]
        self._bar.update(self._task, completed=event["step"], total=total, of=total or "?", words=_words(event))

    def evaluation(self, event: Event) -> None:
        self._bar.console.print(_evaluation(event), highlight=False)

    def checkpoint(self, event: Event) -> None:
        pass

    def close(self) -> None:
        self._bar.stop()


def _words(event: Event) -> str:
    parts = [] if event["loss"] is None else [f"loss {event['loss']:.3f}"]
    if event.get("bits_per_byte") is not None:
        parts.append(f"{event['bits_per_byte']:.3f} bits/byte")
    parts.append(f"{event['tokens_per_s']:,.0f} tokens/s")
    if event["left_s"] is not None:
        parts.append(f"{_clock(event['left_s'])} left")
    if "fault" in event:
        parts.append(f"step skipped: not finite in {event['fault']}")
    return "  ".join(parts)


def _evaluation(event: Event) -> str:
    numbers = "  ".join(f"{k} {v:.4f}" for k, v in event.items() if k != "step" and isinstance(v, float))
    return f"step {event['step']}  held-out: {numbers}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
