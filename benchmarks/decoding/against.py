"""The loop of another commit; see `worker.py` for what is said."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.decoding.subject import Setting
from benchmarks.worker import Worker

__all__ = ["Against"]

WORKER = Path(__file__).with_name("worker.py")


class Against(Worker):
    """A checkout of commit 074ff9c and the worker that runs its loop."""

    def __init__(self, checkout: Path):
        super().__init__(WORKER, checkout)

    def prepare(self, preset: str, setting: Setting, prompt: Sequence[int]) -> None:
        """Build the model and read the prompt."""
        how = {"device": str(setting.device), "dtype": str(setting.dtype).removeprefix("torch.")}
        self.ask(do="prepare", preset=preset, threads=setting.threads, prompt=list(prompt), **how)

    def time(self, tokens: int) -> tuple[float, list[int]]:
        """Seconds of so many tokens after the prompt, and what was said."""
        answer = self.ask(do="time", tokens=tokens)
        return answer["seconds"], answer["said"]

    def operations(self) -> int:
        """Of one cached call of one token, and the head."""
        return int(self.ask(do="operations")["operations"])
