"""Who watches a run. Observers see three events and can change nothing; each writes to one place.

step         after every step: its number, loss, bits per byte, rate, gradient norm, tokens, seconds
evaluation   after a validation: its step and what was measured
checkpoint   after a checkpoint stands: its step and folder
"""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Event", "MetricsFile", "Observer", "TensorBoard", "read_events"]

Event = Mapping[str, Any]
"""JSON values by name; `step` is always among them."""


class Observer(Protocol):
    def step(self, event: Event) -> None: ...

    def evaluation(self, event: Event) -> None: ...

    def checkpoint(self, event: Event) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, `{"event": "step", "step": 12, ...}`, each step once.

    A line is with the operating system before the next step begins, so a killed process loses none. A resumed run
    drops what the file says beyond its checkpoint: those steps are about to happen again.
    """

    def __init__(self, path: str | os.PathLike[str], after: int | None = None):
        """`after`: the step of the checkpoint the run goes on from; None for a new run."""
        self.path = Path(path)
        kept = 0 if after is None else _sound_bytes(self.path, after)
        with open(self.path, "ab") as file:
            file.truncate(kept)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run

    def step(self, event: Event) -> None:
        self._write("step", event)

    def evaluation(self, event: Event) -> None:
        self._write("evaluation", event)

    def checkpoint(self, event: Event) -> None:
        self._write("checkpoint", event)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _write(self, name: str, event: Event) -> None:
        line = json.dumps({"event": name, **event}, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()


def read_events(metrics: Path) -> list[dict[str, Any]]:
    """The events of a run in order; a last line cut short by a crash is passed over."""
    events = []
    for line in metrics.read_text("utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def _sound_bytes(path: Path, after: int) -> int:
    """Length of the file's beginning whose lines are whole and belong to steps up to `after`."""
    if not path.exists():
        return 0
    length = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                event = json.loads(line)
                sound = line.endswith(b"\n") and event["step"] <= after
            except (ValueError, KeyError, TypeError):
                sound = False
            if not sound:
                break
            length += len(line)
    return length


class TensorBoard:
    """The numbers of every event as TensorBoard scalars, under `step/` and `evaluation/`. Needs `tensorboard`."""

    def __init__(self, folder: str | os.PathLike[str], after: int | None = None):
        """`after`: the step of the checkpoint the run goes on from, None for a new run; later steps are hidden."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(os.fspath(folder), purge_step=(after or 0) + 1)

    @staticmethod
    def installed() -> bool:
        return find_spec("tensorboard") is not None

    def step(self, event: Event) -> None:
        self._write("step", event)

    def evaluation(self, event: Event) -> None:
        self._write("evaluation", event)

    def checkpoint(self, event: Event) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, name: str, event: Event) -> None:
        for key, value in event.items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(f"{name}/{key}", value, event["step"])
