"""A training run's folder: checkpoints by step, and links to the newest and the best.

    RUN/step-00000200/  RUN/step-00000400/  RUN/last -> step-00000400  RUN/best -> step-00000200
    RUN/.lock           while a process writes here

`last` and `best` are relative links, so a run can be moved. Where links cannot be made (some network and USB disks,
Windows without the right to), one line is logged and they are left out: `newest` reads the folders and needs no link.
"""

import logging
import os
import re
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path

from positronic.checkpoint.atomic import clean, discard, leftovers, standing, sync
from positronic.checkpoint.lock import holding
from positronic.checkpoint.manifest import Sealed
from positronic.errors import CheckpointError

__all__ = ["RunFolder"]

LAST, BEST = "last", "best"
STEP = re.compile(r"step-(\d{8,})")
log = logging.getLogger(__name__)


class RunFolder:
    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def held(self) -> AbstractContextManager[None]:
        """The folder is this process's alone inside the block; `CheckpointError` if another one writes there."""
        return holding(self.path)

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps belongs."""
        return self.path / f"step-{step:08d}"

    def publish(self, step: int) -> None:
        """Point `last` to this step's checkpoint, in one instant, and clear what killed saves left behind."""
        self._link(LAST, step)
        self.clean()

    def publish_best(self, step: int) -> None:
        """Point `best` to this step's checkpoint, in one instant."""
        self._link(BEST, step)

    def newest(self) -> Path | None:
        """The complete checkpoint of the highest step, whatever `last` says; None: there is none."""
        return next((self.checkpoint_path(step) for step in reversed(self.steps())), None)

    def best(self) -> Path | None:
        """The complete checkpoint that `best` points to; None: there is none."""
        step = self._linked(BEST)
        return self.checkpoint_path(step) if step in self.steps() else None

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending: every file there with its size, contents unread."""
        if not self.path.is_dir():
            return []
        names = {path.name for path in (*self.path.iterdir(), *leftovers(self.path))}
        found = sorted(int(match[1]) for name in names if (match := STEP.fullmatch(name)))
        return [step for step in found if _complete(self.checkpoint_path(step))]

    def prune(self, keep_last: int = 3, keep: Collection[int] = ()) -> list[int]:
        """Delete complete checkpoints except the newest `keep_last`, those steps in `keep`, `last` and `best`.

        -> the steps deleted. One that the disk will not let go is logged and stays: training does not end for it.
        """
        self.clean()
        steps = self.steps()
        kept = {*steps[max(0, len(steps) - keep_last) :], *keep, self._linked(LAST), self._linked(BEST)}
        return [step for step in steps if step not in kept and self._answered(discard, self.checkpoint_path(step))]

    def clean(self) -> None:
        """Undo what killed saves and deletions left behind. Only the process that saves here may call it."""
        for target in leftovers(self.path):
            self._answered(clean, target)
        for name in (LAST, BEST):
            self._answered(_forget, self._new_link(name))

    def _answered(self, delete: Callable[[Path], None], target: Path) -> bool:
        try:
            delete(target)
        except OSError as error:
            log.warning("%s could not be deleted (%s); it is tried again after the next checkpoint", target, error)
            return False
        return True

    def _link(self, name: str, step: int) -> None:
        target = self.checkpoint_path(step)
        if not _complete(target):
            raise CheckpointError(f"{target} is no complete checkpoint, so {name} cannot point to it. Save it first.")
        if self._linked(name) == step:
            return
        link, new = self.path / name, self._new_link(name)
        if link.exists() and not link.is_symlink():
            raise CheckpointError(f"{link} is no link of ours. Move it away: {name} must point to a checkpoint.")
        new.unlink(missing_ok=True)
        try:
            os.symlink(target.name, new, target_is_directory=True)
            os.replace(new, link)
            sync(self.path)
        except (OSError, NotImplementedError) as error:
            log.warning("%s cannot be linked here (%s); the newest checkpoint is %s", link, error, target)
            link.unlink(missing_ok=True)

    def _new_link(self, name: str) -> Path:
        """Where a link is made before it takes its place."""
        return self.path / f".{name}.link"

    def _linked(self, name: str) -> int | None:
        link = self.path / name
        match = STEP.fullmatch(os.readlink(link)) if link.is_symlink() else None
        return int(match[1]) if match else None


def _forget(link: Path) -> None:
    link.unlink(missing_ok=True)


def _complete(folder: Path) -> bool:
    try:
        return Sealed(standing(folder)).complete()
    except CheckpointError:
        return False
