"""When a run writes checkpoints, and which of them it keeps: the newest three and the best."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from positronic.checkpoint import RunFolder, TrainingPart, save
from positronic.lm import LM

if TYPE_CHECKING:
    from positronic.text import Tokenizer

__all__ = ["Checkpoints"]

KEPT = 3


@dataclass(frozen=True)
class Checkpoints:
    """Saves into a run's folder; `RUN/last` always names the newest complete checkpoint."""

    run: RunFolder
    tokenizer: "Tokenizer"
    clock: Callable[[], float] | None = None
    """Seconds since 1970, to date the manifests; None leaves them undated."""

    def save(self, model: LM, part: TrainingPart, step: int, best_step: int | None) -> Path:
        """Write the checkpoint of `step`, then move the links, then delete what nobody keeps."""
        folder = self.run.checkpoint_path(step)
        if step not in self.run.steps():  # there already if the run was resumed at this very step
            save(folder, model, self.tokenizer, part, clock=self.clock)
        self.settle(step, best_step)
        return folder

    def settle(self, step: int, best_step: int | None) -> None:
        """What follows the checkpoint of `step`, in an order in which a kill loses none. Done again, it is no change.

        best_step: of the best validation so far; where no checkpoint was written then, `best` points to none.
        """
        self.run.publish(step)
        if best_step is not None and best_step in self.run.steps():
            self.run.publish_best(best_step)
        self.run.prune(KEPT, keep=() if best_step is None else (best_step,))

    def newest(self) -> str:
        """Words about the checkpoint to go on from; all that are written are finite."""
        newest = self.run.newest()
        return "There is no checkpoint yet." if newest is None else f"The newest checkpoint, {newest}, is sound."
