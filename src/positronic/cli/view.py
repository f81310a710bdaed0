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

from positronic.cli.console import print_json, say
from positronic.cli.sampling import open_model
from positronic.errors import DataError, GenerationError


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
        if self.tokens < 1:
            raise GenerationError(f"--tokens is {self.tokens}; draw 1 token or more.")
        if not self.out.absolute().parent.is_dir():
            raise DataError(f"--out {self.out}: there is no such folder. Make it first.")
        from positronic.generation import SamplingParams
        from positronic.viz import page, replay

        sampler = SamplingParams(temperature=self.temperature, top_p=self.top_p, seed=self.seed)
        model, tokenizer = open_model(self.folder, self.device)
        data = replay(model, tokenizer, self.prompt, tokens=self.tokens, layer=self.layer, sampler=sampler)
        size = self._write(page(data))
        recorded = len(data["tokens"])
        if self.json:
            print_json({"page": str(self.out), "bytes": size, "tokens": recorded, "layers": data["layers"]})
            return
        say(f"{recorded} tokens recorded, {size / 1e6:.1f} MB; open it in a browser:")
        print(self.out)

    def _write(self, text: str) -> int:
        """Bytes written."""
        try:
            return self.out.write_bytes(text.encode())
        except OSError as error:
            raise DataError(f"{self.out} cannot be written ({error.strerror}); give another --out.") from None
