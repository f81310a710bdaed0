"""Make a checkpoint of a known model, GPT-2 or Llama, from the folder that Transformers saved it to.

For ids of its own vocabulary it says what the original says. Every setting of its config.json is honoured or refused,
every tensor has a place, nothing is unpickled. The vocabulary must be byte-level BPE, as GPT-2's and Llama 3's are; our
control tokens are added behind it. Then generate, eval, view, health, ablate and verify read it as they read our own.

Examples:
  positronic convert gpt2/ --out known
  positronic convert Llama-3.2-1B/ --out known --json
  positronic ablate known --prompt "The lamp on the hill"
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from positronic.cli.console import print_json, say


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Where config.json, tokenizer.json and model.safetensors, or shards of it, are."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where to write: a new folder, or an empty one."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.checkpoint import convert

        found = convert(self.folder, self.out)
        if self.json:
            print_json(found.to_json())
            return
        print(
            f"{self.out}: {found.parameters:,} parameters of a {found.model_type} model as {found.dtype}, "
            f"{found.vocab_size:,} entries, the last {found.added} of them our control tokens"
        )
        say(f"Look inside: positronic health {self.out}")
