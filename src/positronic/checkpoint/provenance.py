"""Who wrote a checkpoint: versions, machine and commit; under the same ones a resumed run can be bit-identical."""

import platform
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

import positronic

__all__ = ["commit", "written_by"]


def written_by(device: torch.device, clock: Callable[[], float] | None) -> dict[str, Any]:
    """The manifest's `written_by`. `clock` gives seconds since 1970; without one no time is recorded."""
    found: dict[str, Any] = {
        "positronic": positronic.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }
    if clock is not None:
        found["created_at"] = datetime.fromtimestamp(clock(), UTC).isoformat(timespec="seconds")
    return found


@cache
def commit() -> str | None:
    """The commit of our own source tree, `+changes` if files differ from it; None where there is no such tree.

    Asked once: what runs is what was there when it was read.
    """
    package = Path(positronic.__file__).resolve().parent
    root = package.parents[1]
    if package != root / "src" / "positronic" or not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
