"""The package of another tree, in a process that is started once, so that rounds can alternate with ours."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

__all__ = ["Worker", "WorkerError"]


class WorkerError(RuntimeError):
    """What the other tree says it cannot do."""


class Worker:
    """A script that runs with a tree's package on its path and answers commands: JSON, a line each."""

    def __init__(self, script: Path, tree: Path):
        source = (tree / "src").resolve()
        if not (source / "positronic").is_dir():
            raise SystemExit(f"{tree} holds no src/positronic; give the folder of a checkout.")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
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

    def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to a command; `do` says which."""
        assert self._process.stdin is not None, "a pipe"
        assert self._process.stdout is not None, "a pipe"
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerError("the worker has ended; its last words are above") from None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"the worker has ended at {command['do']!r}; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer
