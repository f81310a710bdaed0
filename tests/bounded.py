"""Calls that must end: in a value or a sentence of ours, in 20 s of CPU and 1 GiB beyond what was there."""

import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from positronic.errors import PositronicError

SECONDS, BYTES = 20, 2**30


class Hung(BaseException):
    """Not to be caught by what hangs."""


def bounded(call: Callable[[], Any]) -> Any:
    """What the call answers, or its refusal as text. A traceback, a hang or too much memory fails the test."""
    with _limited():
        started, before = time.process_time(), _peak(reset=True)
        try:
            found = call()
        except PositronicError as error:
            found = sentence(error)
        assert time.process_time() - started < SECONDS
        assert _peak() - before < BYTES
    return found


def sentence(error: PositronicError) -> str:
    """The text of an error, which must be a few words that end in what to do."""
    text = str(error)
    assert text.endswith((".", "?")), text
    assert "\n" not in text, text
    assert len(text) < 900, text
    return text


@contextmanager
def _limited() -> Iterator[None]:
    """A gigabyte more of addresses than are mapped now, twice over, as freed ones stay mapped; and a clock of CPU."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 4 * BYTES, hard))
    before = signal.signal(signal.SIGVTALRM, _hung)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _hung(number: int, frame: Any) -> None:
    raise Hung(f"still running after {SECONDS} s of CPU")


def _peak(reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024
