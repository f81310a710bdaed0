"""How commands speak: one JSON object on stdout when asked for, words for people otherwise."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["print_json", "say", "table"]


def print_json(data: Any) -> None:
    """The one thing a `--json` command writes to stdout."""
    json.dump(data, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def say(text: str = "") -> None:
    """Progress and notes: stderr, so that stdout stays a result."""
    print(text, file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; numbers are handed in formatted."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)
