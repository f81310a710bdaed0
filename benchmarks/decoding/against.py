"""The loop of another commit, in a process that is started once, so that rounds can alternate with ours."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.decoding.subject import Setting

__all__ = ["Against", "AgainstError"]

WORKER = Path(__file__).with_name("worker.py")


class AgainstError(RuntimeError):
    """What the other commit says it cannot do."""


class Against:
    """A checkout of a commit and the worker that runs its loop; see `worker.py` for what is said."""

    def __init__(self, checkout: Path):
        source = (checkout / "src").resolve()
        if not (source / "positronic").is_dir():
            raise SystemExit(f"{checkout} holds no src/positronic; give the folder of a checkout of commit 074ff9c.")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            env=os.environ | {"PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.close()  # the worker's loop ends with its input
        self._process.wait(60)

    def prepare(self, preset: str, setting: Setting, prompt: Sequence[int]) -> None:
        """Build the model and read the prompt."""
        how = {"device": str(setting.device), "dtype": str(setting.dtype).removeprefix("torch.")}
        self._ask(do="prepare", preset=preset, threads=setting.threads, prompt=list(prompt), **how)

    def time(self, tokens: int) -> tuple[float, list[int]]:
        """Seconds of so many tokens after the prompt, and what was said."""
        answer = self._ask(do="time", tokens=tokens)
        return answer["seconds"], answer["said"]

    def operations(self) -> int:
        """Of one cached call of one token, and the head."""
        return self._ask(do="operations")["operations"]

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None, "a pipe"
        assert self._process.stdout is not None, "a pipe"
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise AgainstError("the worker has ended; its last words are above") from None
        line = self._process.stdout.readline()
        if not line:
            raise AgainstError(f"the worker has ended at {command['do']!r}; its last words are above")
        answer = json.loads(line)
        if "error" in answer:
            raise AgainstError(answer["error"])
        return answer
