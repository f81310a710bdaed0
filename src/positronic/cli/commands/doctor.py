"""Is my loss normal? A run beside the reference curve of its recipe: normal, or what is off, with the number.

Says nan, data, learning rate, labels or stuck, and which step and value made it say so. A run whose recipe has no
shipped curve is looked at for what holds everywhere: values that are not finite, a loss that rises or never moves.

Examples:
  positronic doctor tiny-llm
  positronic doctor tiny-llm --json --strict
  positronic doctor run.metrics.jsonl --reference my-curve.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from positronic.cli.console import print_json, say


@dataclass(frozen=True)
class Command:
    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run's folder, or its metrics.jsonl."""
    reference: Annotated[Path | None, tyro.conf.arg(metavar="CURVE.json")] = None
    """Compare with this curve; when not given, with the shipped one of the run's recipe."""
    strict: bool = False
    """Exit with 1 where something is off."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        from positronic.recipes.doctor import examine
        from positronic.recipes.reference import Reference

        curves = None if self.reference is None else [Reference.load(self.reference)]
        found = examine(self.run_folder, curves)
        if self.json:
            print_json({"run": str(self.run_folder), **found.to_json()})
        else:
            print(found.words)
            for line in found.differences:
                say(f"  {line}")
        return int(self.strict and found.verdict == "off")
