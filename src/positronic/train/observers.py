"""Who watches a run. Observers see three events and can change nothing; each writes to one place.

step         after every step: its number, loss, bits per byte, rate, gradient norm, tokens, seconds
evaluation   after a validation: its step and what was measured
checkpoint   after a checkpoint stands: its step and folder
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, Protocol

from positronic.checkpoint import RunFolder
from positronic.checkpoint.atomic import writing

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
        kept = _events(self.path, after) if after is not None and self.path.exists() else []
        self._file = _cut(self.path, sum(length for _, length in kept))
        if after is not None and not any(e["event"] == "checkpoint" and e["step"] == after for e, _ in kept):
            # the run was killed when the checkpoint stood and before this was said
            folder = RunFolder(self.path.parent).checkpoint_path(after)
            self.checkpoint({"step": after, "folder": str(folder)})

    def step(self, event: Event) -> None:
        self._write("step", event)

    def evaluation(self, event: Event) -> None:
        self._write("evaluation", event)

    def checkpoint(self, event: Event) -> None:
        self._write("checkpoint", event)
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _write(self, name: str, event: Event) -> None:
        line = json.dumps({"event": name, **event}, allow_nan=False)
        with writing(self.path):
            _append(self._file, line.encode() + b"\n")


def read_events(metrics: Path) -> list[dict[str, Any]]:
    """The events of a run in order; what follows a line that is none, as after a crash, is passed over."""
    return [event for event, _ in _events(metrics)]


def _events(path: Path, until: int | None = None) -> list[tuple[dict[str, Any], int]]:
    """The events at the beginning of a file, and the lengths of their lines; until: up to that step, whole lines."""
    found: list[tuple[dict[str, Any], int]] = []
    with open(path, "rb") as file:
        for line in file:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                break
            if (
                not isinstance(event, dict)
                or not isinstance(event.get("event"), str)
                or type(event.get("step")) is not int
            ):
                break
            if until is not None and (event["step"] > until or not line.endswith(b"\n")):
                break
            found.append((event, len(line)))
    return found


def _cut(path: Path, length: int) -> FileIO:
    """The file, unbuffered, to be written on behind its first bytes."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
        file.truncate(length)
        return file


def _append(file: FileIO, data: bytes) -> None:
    """All of it: a disk that becomes full takes a part first."""
    while data:
        data = data[file.write(data) :]


class TensorBoard:
    """The numbers of every event as TensorBoard scalars, under `step/` and `evaluation/`. Needs `tensorboard`.

    One file, written in the process's own thread and cut to the checkpoint when a run goes on, as the lines are.
    """

    def __init__(
        self, folder: str | os.PathLike[str], after: int | None = None, clock: Callable[[], float] = time.time
    ):
        """`after`: the step of the checkpoint the run goes on from, None for a new run. clock: seconds since 1970."""
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path = Path(folder) / EVENTS
        self._clock, self._record, self._summary, self._framed = clock, Record, Summary, RecordWriter
        kept = 0 if after is None else _sound_records(self.path, after, Record)
        self._file = _cut(self.path, kept)
        if not kept:
            self._put(Record(file_version="brain.Event:2"))
            self._put(Record(step=(after or 0) + 1, session_log=SessionLog(status=SessionLog.START)))

    @staticmethod
    def installed() -> bool:
        return find_spec("tensorboard") is not None

    def step(self, event: Event) -> None:
        self._write("step", event)

    def evaluation(self, event: Event) -> None:
        self._write("evaluation", event)

    def checkpoint(self, event: Event) -> None:
        pass

    def close(self) -> None:
        self._file.close()

    def _write(self, name: str, event: Event) -> None:
        values = [
            self._summary.Value(tag=f"{name}/{key}", simple_value=value)
            for key, value in event.items()
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        self._put(self._record(step=event["step"], summary=self._summary(value=values)))

    def _put(self, record: Any) -> None:
        record.wall_time = self._clock()
        framed = BytesIO()
        self._framed(framed).write(record.SerializeToString())
        with writing(self.path):
            _append(self._file, framed.getvalue())


EVENTS = "events.out.tfevents.run"
FRAME = 12
"""Bytes before a record: its length, 8 of them, and their checksum; behind it stand another 4."""


def _sound_records(path: Path, after: int, record: Any) -> int:
    """Length of the file's beginning whose records are whole and belong to steps up to `after`."""
    from google.protobuf.message import DecodeError

    data = path.read_bytes() if path.exists() else b""
    length = 0
    while True:
        start = length + FRAME
        end = start + int.from_bytes(data[length : length + 8], "little")
        if end + 4 > len(data):
            return length
        try:
            found = record.FromString(data[start:end])
        except DecodeError:
            return length
        if found.step > after and not found.HasField("session_log"):
            return length
        length = end + 4
