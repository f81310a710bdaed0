"""A folder that appears whole or not at all.

It is filled under a hidden name beside its final one, forced to the disk, and renamed. Three hidden names are ours:
`.NAME.new` is being filled, `.NAME.old` stood there before, `.NAME.gone` is being deleted. A process killed at any
instant leaves the folder, or, between two renames, `.NAME.old` in its place, which `standing` finds.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from positronic.errors import CheckpointError

__all__ = ["appearing", "clean", "discard", "leftovers", "replace", "settle", "standing", "sync", "writing"]

log = logging.getLogger(__name__)
NEW, OLD, GONE = "new", "old", "gone"


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of `target` when the block ends, and is removed when the block raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    clean(target)
    new, old = _hidden(target, NEW), _hidden(target, OLD)
    new.mkdir()
    try:
        yield new
        settle(new)
        if target.exists():
            os.rename(target, old)
        os.rename(new, target)
        sync(target.parent)
    except BaseException:
        if not new.exists():  # it was in place already
            os.rename(target, new)
        if old.exists():
            os.rename(old, target)
        shutil.rmtree(new, ignore_errors=True)
        raise
    if old.exists():
        try:
            _discard(old, _hidden(target, GONE))
        except OSError as error:
            log.warning("%s is saved; what stood there before could not be deleted yet (%s)", target, error)


def standing(target: Path) -> Path:
    """Where `target` stands: at its name, or beside it if a save was killed between its two renames."""
    old = _hidden(target, OLD)
    return old if not os.path.exists(target) and os.path.isdir(old) else target


def clean(target: Path) -> None:
    """Undo what a killed save or deletion of `target` left behind."""
    new, old, gone = (_hidden(target, kind) for kind in (NEW, OLD, GONE))
    if old.exists() and not target.exists():
        os.rename(old, target)
    for leftover in (new, old, gone):
        if leftover.exists():
            shutil.rmtree(leftover)


def leftovers(folder: Path) -> list[Path]:
    """The targets in `folder` of which a killed save or deletion left something behind."""
    found = set()
    for path in folder.glob(".*"):
        stem, _, kind = path.name[1:].rpartition(".")
        if stem and kind in (NEW, OLD, GONE):
            found.add(folder / stem)
    return sorted(found)


def discard(target: Path) -> None:
    """Delete a folder so that a kill leaves no half of it under its name."""
    _discard(target, _hidden(target, GONE))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writing to `path`, a file of a run: a full or failing disk is one sentence."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror or error}. Every checkpoint that was saved still stands; "
            f"free space in {path.parent}, see that it is writable, and go on with --resume."
        ) from error


def replace(target: Path, raw: bytes) -> None:
    """Make `raw` the content of the file `target`, whole or not at all; `OSError` leaves what stood there."""
    new = target.with_name(f".{target.name}.new")
    try:
        new.write_bytes(raw)
        sync(new)
        os.replace(new, target)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync(target.absolute().parent)


def sync(path: Path) -> None:
    """Force a file or a folder's list of names to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows has no such call for folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(folder: Path) -> None:
    """Plain permissions for everything inside, and everything on the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            path.chmod(0o644)
            sync(path)
        Path(place).chmod(0o755)
        sync(Path(place))


def _discard(folder: Path, gone: Path) -> None:
    if gone.exists():
        shutil.rmtree(gone)
    os.rename(folder, gone)
    shutil.rmtree(gone)


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}")
