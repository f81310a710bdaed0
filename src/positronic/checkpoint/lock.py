"""One writer a folder: a lock that ends with its process, however that ends.

`FOLDER/.lock` is locked by the kernel (`flock`) while a run writes there, and holds the number of its process for the
sentence that refuses a second one. A killed run leaves the file and no lock: the next one takes it over and deletes it
when it is done. Where files cannot be locked (some network disks) the number alone decides: a process of this machine
that lives has the folder; where there is no `flock` at all (Windows) nothing is refused. Both are logged in one line.
"""

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import NoReturn

from positronic.checkpoint.atomic import writing
from positronic.errors import CheckpointError, ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["holding", "usable"]

LOCK = ".lock"
log = logging.getLogger(__name__)
_held: ContextVar[frozenset[Path]] = ContextVar("held_folders", default=frozenset())


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """`folder`, made if need be, is this process's alone inside the block; held by another, it raises with its number.

    Who holds it already may hold it again. A folder that was made for this and is empty after the block is deleted.
    """
    place, path = Path(os.path.realpath(usable(folder))), folder / LOCK
    if place in _held.get():
        yield
        return
    new = not folder.exists()
    handle = _taken(path)
    token = _held.set(_held.get() | {place})
    try:
        yield
    finally:
        _held.reset(token)
        path.unlink(missing_ok=True)  # before it is let go: who waits for it finds out in `_taken`
        os.close(handle)
        if new:
            with suppress(OSError):
                folder.rmdir()


def _taken(path: Path) -> int:
    """The lock file, open, locked and with our number in it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder went with who held it
            continue
        try:
            _lock(handle, path)
            if _is(handle, path):
                with writing(path):
                    os.ftruncate(handle, 0)
                    os.write(handle, f"{os.getpid()} {platform.node()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was deleted by who held it, between our two calls


def _lock(handle: int, path: Path) -> None:
    if fcntl is None:
        log.warning("%s cannot be locked on this system; see that only one run writes to its folder", path)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _refuse(path)
    except OSError as error:
        number, host = _holder(path)
        if host == platform.node() and _lives(number):
            _refuse(path)
        log.warning("%s cannot be locked (%s); see that no other machine writes to its folder", path, error.strerror)


def _is(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> tuple[int, str]:
    """Number and machine of the process that wrote the file; 0 where it had no time to."""
    try:
        number, _, host = path.read_text("utf-8").strip().partition(" ")
        return int(number), host
    except (OSError, ValueError):
        return 0, ""


def _lives(number: int) -> bool:
    if number in (0, os.getpid()):
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _refuse(path: Path) -> NoReturn:
    number, host = _holder(path)
    who = f"Process {number}" if number else "Another process"
    where = "" if host in ("", platform.node()) else f" on {host}"
    raise CheckpointError(
        f"{who}{where} is writing to {path.parent} now. Wait until it is done or stop it, or give another --out."
    )


def usable(folder: Path) -> Path:
    """`folder`, if what lies in it can be written down and printed; a name that is no text raises `ConfigError`."""
    try:
        if "\0" not in str(folder) and str(folder).encode("utf-8"):
            return folder
    except UnicodeEncodeError:
        pass
    raise ConfigError(
        f"A run's folder cannot be called {str(folder)!r}: names are UTF-8 without NUL. Give another --out."
    )
