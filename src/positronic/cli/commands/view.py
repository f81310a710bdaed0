"""Replay how a model reads a prompt and goes on: one page with its text, its expectations and its insides moving.

The page opens in any browser without a network. Every number on it was recorded in this run.

Examples:
  positronic view my-run/last --prompt "The function returns" --tokens 60 --out view.html
  positronic view my-run/last --prompt "def main" --layer 2 --temperature 0 --out layer2.html
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from positronic.cli.parts.view_page import write_view


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder."""
    prompt: str
    """Text to read and continue."""
    tokens: int = 48
    """Draw this many tokens after it."""
    out: Annotated[Path, tyro.conf.arg(metavar="PAGE.html")] = Path("view.html")
    """Where to write the page."""
    layer: int | None = None
    """Show one layer, counted from 1; all when not given."""
    temperature: float = 0.7
    """0 takes the most likely token; higher is freer."""
    top_p: float = 0.92
    """Keep the most likely tokens of this mass; 1 keeps all."""
    seed: int = 0
    """The same seed gives the same text."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        write_view(
            self.folder,
            self.prompt,
            self.out,
            tokens=self.tokens,
            layer=self.layer,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            device=self.device,
            as_json=self.json,
        )
