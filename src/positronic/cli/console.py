"""How commands speak: one JSON object on stdout when asked for, words for people otherwise. And how they listen."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from positronic.cli.terminal import UNSAFE, paint, visible

__all__ = ["ask", "print_json", "say", "table"]

LONGEST_LINE = 4095
"""Bytes of a line that a terminal passes on; of a longer one it drops the rest."""


def print_json(data: Any) -> None:
    """The one thing a `--json` command writes to stdout; what a terminal might obey is escaped as JSON has it."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    print(UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def say(text: str = "") -> None:
    """Progress and notes: stderr, so that stdout stays a result."""
    print(visible(text) if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def ask(prompt: str) -> str | None:
    """A line from the user; None at the end of input. One that the terminal has cut is asked for again."""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            print()
            return None
        if len(line.encode(errors="surrogateescape")) < LONGEST_LINE or not sys.stdin.isatty():
            return line
        say(f"(a terminal passes on {LONGEST_LINE:,} bytes of a line, so the rest is lost: shorten it, or use a pipe)")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; numbers are handed in formatted."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False)
    shown = visible if console.is_terminal else str
    drawn = Table(title=shown(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(shown(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(shown, row))
    with console.capture() as picture:
        console.print(drawn)
    paint(picture.get())
