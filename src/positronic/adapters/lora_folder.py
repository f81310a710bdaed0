"""The folder of a LoRA run: the checkpoints of Transformers' Trainer, each whole or not there.

    RUN/lora.json  RUN/checkpoint-100/  RUN/adapter_model.safetensors ...        RUN/.saving/ while one is written

The Trainer fills RUN/.saving/checkpoint-STEP file by file; when all of it is on the disk it is renamed into RUN, and
the one before it is deleted. What is half a checkpoint all the same, as a copy cut short leaves it, is never gone on
from.
"""

import logging
import os
import re
import shutil
import zipfile
from pathlib import Path

from transformers.trainer_callback import TrainerState

from positronic.checkpoint.atomic import clean, discard, leftovers, settle, sync
from positronic.checkpoint.tensors import header
from positronic.errors import CheckpointError

__all__ = ["ADAPTER", "LoRAFolder", "step_of"]

ADAPTER = "adapter_model.safetensors"
PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Zip archives of pickles: looked at from outside here, and opened by the Trainer with weights_only."""
STATE = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
log = logging.getLogger(__name__)


class LoRAFolder:
    def __init__(self, path: Path):
        self.path = path
        self.saving = path / ".saving"
        """Where the Trainer writes."""

    def newest(self) -> Path | None:
        """The newest whole checkpoint; None: there is none."""
        return next((folder for folder in self._checkpoints() if _damage(folder) is None), None)

    def check(self) -> None:
        """Raise `CheckpointError` if there are checkpoints and each of them is damaged; an empty folder is none."""
        damages = [_damage(folder) for folder in self._checkpoints() if any(folder.iterdir())]
        if damages and None not in damages:
            raise CheckpointError(
                f"{damages[0]} No other checkpoint in {self.path} can be gone on from: copy it again from where it is "
                f"whole, or begin again without --resume."
            )

    def stands(self) -> str:
        """Words about the checkpoint to go on from; all that are written are finite."""
        whole = self.newest()
        return "There is no checkpoint yet." if whole is None else f"The newest checkpoint, {whole}, is sound."

    def keep(self, kept: Path | None) -> None:
        """Delete what killed saves left and every checkpoint but `kept`. Only who holds the folder may call it."""
        shutil.rmtree(self.saving, ignore_errors=True)
        for target in leftovers(self.path):
            clean(target)
        for folder in self._checkpoints():
            if folder != kept:
                if kept is not None and step_of(folder) > step_of(kept):
                    log.warning("%s is half a checkpoint and was set aside; the run goes on from %s", folder, kept)
                discard(folder)

    def publish(self, step: int) -> Path:
        """Move what the Trainer wrote after `step` steps to its place, in one instant, and delete the one before it."""
        new, target = self.saving / f"checkpoint-{step}", self.path / f"checkpoint-{step}"
        settle(new)
        os.rename(new, target)
        sync(self.path)
        self.keep(target)
        return target

    def _checkpoints(self) -> list[Path]:
        """Folders by their names, the highest step first."""
        if not self.path.is_dir():
            return []
        found = [path for path in self.path.iterdir() if CHECKPOINT.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Steps that were done when it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _damage(folder: Path) -> str | None:
    """A sentence about the first file of a checkpoint that cannot be what the Trainer wrote; None: all are."""
    for name in (STATE, *PICKLED):  # the state is written last: without it nothing is whole
        try:
            sound = _steps(folder / name) == step_of(folder) if name == STATE else _archived(folder / name)
        except UNREADABLE:
            sound = False
        if not sound:
            return f"{folder / name} is missing or damaged."
    try:
        header(folder / ADAPTER)
    except CheckpointError as error:
        return str(error)
    return None


UNREADABLE = (OSError, EOFError, ValueError, TypeError, RecursionError, NotImplementedError, zipfile.BadZipFile)
"""What reading a file that holds something else may raise."""


def _steps(state: Path) -> int:
    return TrainerState.load_from_json(str(state)).global_step


def _archived(path: Path) -> bool:
    """Whether every part of a zip archive has its checksum."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None
