"""How the scripts speak: a mistake is one sentence and status 2, progress is one line, Ctrl-C ends at a safe moment."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import FrameType

from positronic_course import CourseError

MODEL = Path("course-model")
"""Where train_simple keeps its model, and the others look for it."""
BPE_MODEL = Path("course-model-bpe")
"""Where train_bpe keeps its model, and generate_bpe looks for it."""


def run(main: Callable[[], int | None]) -> None:
    """End the program with the status of `main`: 2 for what the reader can mend, 130 when interrupted."""
    try:
        status = main() or 0
    except CourseError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        status = 2
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        print(f"{Path(sys.argv[0]).stem}: {error.filename}: {error.strerror}. Choose another place.", file=sys.stderr)
        status = 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        status = 141
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        status = 130
    sys.exit(status)


def read_text(path: Path | None) -> str:
    """A text file; None is the course's own stories."""
    if path is None:
        return files("positronic_course").joinpath("corpus.txt").read_text("utf-8")
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {error.strerror}. Give a text file.") from error
    except UnicodeDecodeError as error:
        raise CourseError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error


def progress(done: int, of: int, text: str, lasting: bool) -> None:
    """A bar that stays on its line in a terminal; elsewhere a line each time that is worth one."""
    filled = 20 * done // of
    bar = f"[{'#' * filled}{'.' * (20 - filled)}] {text}"
    if sys.stderr.isatty():
        print(f"\r{bar}\x1b[K", end="\n" if done == of else "", file=sys.stderr, flush=True)
    elif lasting:
        print(bar, file=sys.stderr, flush=True)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C or TERM only raises a flag, which the function reads; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
