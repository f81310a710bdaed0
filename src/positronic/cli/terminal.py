"""Between a command and its terminal: what would command the terminal is shown, what cannot be written is said.

    on a terminal       ESC and all of C0 and C1 but newline and tab, bidirectional controls, line separators and
                        halves of surrogates are written as \\x1b, \\x9b, \\u202e
    in a pipe, a file   text goes on as it is; what is no text in a file's name becomes the bytes that it was

`main` puts the three streams behind this while a command runs. Whoever prints what a model, a data set, a file's name
or an error says, cannot move the cursor, forge a line or talk to the terminal. Our own colours go through `paint`, and
what rich draws, which is asked of rich in two places only: `console.table` and `train.progress`. Standard input is
read with halves of characters in it, so that they can be told from its end.
"""

import codecs
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO, cast

__all__ = ["UNSAFE", "guarded", "paint", "parsing", "visible"]

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # Bidi_Control
    "\u2028\u2029\ud800-\udfff]"  # separators of lines and paragraphs, halves of surrogates
)
COLOUR = re.compile("\x1b\\[[0-9;]*m")
AS_BYTES = range(0xDC80, 0xDD00)
"""Surrogates that stand for the bytes 0x80 to 0xff (PEP 383)."""
AS_IT_WAS = "positronic.as_it_was"


def visible(text: str, kept: str = "") -> str:
    """`text` with every character that a terminal may obey spelt out; those in `kept` stay."""
    return UNSAFE.sub(lambda found: found[0] if found[0] in kept else _spelt(found[0]), text)


def _spelt(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if code in AS_BYTES else ascii(character)[1:-1]


def _as_it_was(error: UnicodeError) -> tuple[str | bytes, int]:
    """What an encoder writes where it cannot encode: the byte that a surrogate stands for, else the character spelt."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = map(ord, error.object[error.start : error.end])
    parts = (bytes([c - 0xDC00]) if c in AS_BYTES else ascii(chr(c))[1:-1].encode() for c in codes)
    return b"".join(parts), error.end


codecs.register_error(AS_IT_WAS, _as_it_was)


class Guarded:
    """A stream of text whose terminal, if it is one, hears nothing but text."""

    def __init__(self, stream: TextIO, name: str, kept: str = "", notes: bool = False):
        """notes: what is written here is no result; where it finds no room it is lost, and the command goes on."""
        self.rich_proxied_file = stream  # by this name rich looks for the stream behind another
        self._stream, self._name, self._kept, self._notes = stream, name, kept, notes
        self._terminal = stream.isatty()

    def write(self, text: str) -> int:
        self.paint(visible(text, self._kept) if self._terminal else text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def paint(self, text: str) -> None:
        """Write what is ours, colours and all."""
        with self._named():
            self._stream.write(text)

    def flush(self) -> None:
        with self._named():
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the system say which stream they are of; a reader who has left stays `BrokenPipeError`."""
        try:
            yield
        except OSError as error:
            if self._notes and not isinstance(error, BrokenPipeError):
                return
            raise OSError(error.errno, error.strerror, self._name) from None


@contextmanager
def guarded() -> Iterator[None]:
    """The streams of this process behind a guard; what they could not write by the end is dropped."""
    before = sys.stdin, sys.stdout, sys.stderr
    given = _open(0, sys.stdin), _writing(_open(1, sys.stdout)), _writing(_open(2, sys.stderr))
    sys.stdin = reading = _reading(given[0])
    sys.stdout = cast(TextIO, Guarded(given[1], "standard output"))
    kept = "\r"  # progress of other libraries
    sys.stderr = cast(TextIO, Guarded(given[2], "standard error", kept, notes=True))
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        if reading is not given[0]:
            reading.close()
        for stream in given[1:]:
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open(number: int, stream: TextIO | None) -> TextIO:
    """The stream; in the place of one that was closed before we began, one that has nothing and takes nothing.

    Notes are then not wanted, and results cannot be delivered. Left closed, a file of ours would get its number.
    """
    if stream is not None:
        return stream
    opened = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    return open(opened, "r" if number == 0 else "w", encoding="utf-8")


def _writing(stream: TextIO) -> TextIO:
    """The stream, set to write what it cannot encode; one whose file was exchanged for a pipe cannot be set any more.

    It still believes that it can seek. Another one, on the same number, then writes in its place.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        stream.reconfigure(errors=AS_IT_WAS)
    except OSError:
        buffering = 1 if stream.line_buffering else -1
        return open(stream.fileno(), "w", buffering, stream.encoding, AS_IT_WAS, closefd=False)
    return stream


def _reading(stream: TextIO) -> TextIO:
    """Standard input under another number: `input` then reads lines as they are, and not up to a NUL."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return open(os.dup(stream.fileno()), encoding=stream.encoding, errors="surrogateescape")


class _Held(io.StringIO):
    """Takes text in the place of standard output, and is a terminal if that is one."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO):
        super().__init__()
        self._terminal = stream.isatty()

    def isatty(self) -> bool:
        return self._terminal


@contextmanager
def parsing() -> Iterator[None]:
    """While a library reads flags: its help is painted, its complaints, which repeat the flags, have no colour."""
    help_text, complaint = _Held(sys.stdout), io.StringIO()
    try:
        with redirect_stdout(help_text), redirect_stderr(complaint):
            yield
    finally:
        paint(help_text.getvalue())
        sys.stderr.write(COLOUR.sub("", complaint.getvalue()))


def paint(text: str) -> None:
    """Write to standard output what is ours, colours and all."""
    if isinstance(sys.stdout, Guarded):
        sys.stdout.paint(text)
    else:
        sys.stdout.write(text)
