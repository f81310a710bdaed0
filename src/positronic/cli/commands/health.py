"""Look at every organ of a model: is it alive, and what to do if not.

Weights, gates, gradients, rings, routers, stores and heads, a verdict a line: ok, watch or broken. What each finding
means and where its threshold lies stands in positronic/observe/health/findings.py. Without --data the model reads
documentation that comes with Python.

Examples:
  positronic health my-run/last
  positronic health my-run/last --data held-out.txt --out health.html
  positronic health my-run/last --json --strict
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from positronic.cli.parts.health_report import report_health


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Text that the model reads; what comes with Python when not given."""
    max_bytes: int = 20_000
    """Read at most this much of each path."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="REPORT.html")] = None
    """Write a page with plots, too."""
    strict: bool = False
    """Exit with 1 where something is broken."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        found = report_health(
            self.folder, self.data, max_bytes=self.max_bytes, out=self.out, device=self.device, as_json=self.json
        )
        return int(self.strict and found.verdict == "broken")
