"""Learn a recipe's curve and its band from runs of several seeds, for `positronic doctor` to compare with.

Takes folders of runs, or their metrics.jsonl alone with --recipe; of runs that were cut short, what all of them have.

Examples:
  positronic reference --name tiny-on-my-text --out curve.json seed-0 seed-1 seed-2 seed-3 seed-4
  positronic reference --name tinygpt-15m-blend-v1 --recipe seed-0/run.json --out curve.json *.metrics.jsonl
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from positronic.cli.console import say


@dataclass(frozen=True)
class Command:
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")]
    """Run folders or metrics.jsonl files, five at least, that differ in their seed alone."""
    name: str
    """What the curve is called."""
    out: Annotated[Path, tyro.conf.arg(metavar="CURVE.json")]
    """Where it goes."""
    recipe: Annotated[Path | None, tyro.conf.arg(metavar="run.json")] = None
    """Settings of the runs; when not given, the run.json beside each of them."""
    note: str = ""
    """What should be read with it: machine, text."""

    def run(self) -> None:
        from positronic.recipes.reference import learn_from

        reference = learn_from(self.runs, self.name, self.recipe, self.note)
        reference.save(self.out)
        say(f"{reference.seeds} seeds, {reference.ends[-1]:,} steps -> {self.out}")
