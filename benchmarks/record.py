"""How a benchmark is written down: what was measured, on which machine, with which versions, at which commit."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from positronic.checkpoint import commit

__all__ = ["RESULTS", "alternate", "in_turn", "ratio", "spread", "write"]

RESULTS = Path(__file__).parent / "results"


def write(name: str, command: str, results: Any, *, packages: tuple[str, ...] = ("torch",), to: Path = RESULTS) -> Path:
    """results/NAME.json with everything needed to judge it and to run it again."""
    path = to / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": name,
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        **results,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return path


def in_turn(forms: Mapping[str, Callable[[], float]], *, rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """What each form says it took, taken in turn A B A B ..., so that a drift of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(warmup + rounds):
        for name, form in forms.items():
            taken = form()
            if turn >= warmup:
                seconds[name].append(taken)
    return seconds


def alternate(
    forms: dict[str, Callable[[], None]], *, rounds: int, warmup: int = 2, settle: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each form, taken in turn."""

    def timed(form: Callable[[], None]) -> float:
        settle()
        start = time.perf_counter()
        form()
        settle()
        return time.perf_counter() - start

    return in_turn({name: partial(timed, form) for name, form in forms.items()}, rounds=rounds, warmup=warmup)


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, smallest and largest, in seconds."""
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), "runs": len(seconds)}


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median, smallest and largest of the quotients of numbers that were taken in turn."""
    quotients = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(quotients), "min": min(quotients), "max": max(quotients)}


def machine() -> dict[str, Any]:
    """Processor, cores, memory, accelerator; no name of the host."""
    import os

    found: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()}
    try:
        import torch

        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["accelerator"] = torch.cuda.get_device_name()
    except ImportError:
        pass
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
