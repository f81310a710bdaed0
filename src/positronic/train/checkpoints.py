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
        self.run.publish(step)
        if best_step == step:
            self.run.publish_best(step)
        self.run.prune(KEPT)
        return folder
