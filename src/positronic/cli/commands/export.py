"""Write a checkpoint in a form that other programs read.

  hf-remote-code    a folder that brings the code of its family: Transformers opens it with trust_remote_code=True where
                    positronic is not installed
  safetensors       a checkpoint as training writes it, without what a run needs to go on; smaller with --dtype
  safetensors-bf16  the same with --dtype bfloat16

Each of them is a checkpoint that every command here goes on reading.

Examples:
  positronic export my-run/last --format hf-remote-code --out my-model
  positronic export my-run/last --format safetensors-bf16 --out my-model-bf16
  positronic export my-run/last --format hf-remote-code --dtype float16 --shard-size 500MB --out my-model --json
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from positronic.cli.console import print_json, say
from positronic.cli.parts.named_models import newest_of
from positronic.config import did_you_mean
from positronic.errors import ConfigError

FORMATS = ("hf-remote-code", "safetensors", "safetensors-bf16")
UNITS = {"MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder, or a run's for its newest checkpoint."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where to write: a new folder, or an empty one."""
    format: Annotated[str, tyro.conf.arg(metavar="|".join(FORMATS))] = "hf-remote-code"
    """What to write."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the parameters; as they are stored when not given. Tables that need it stay float32."""
    shard_size: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "5GB"
    """Cut the weights into files of at most this size: 500MB, 2GB."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        dtype, shard_bytes = self._checked()
        from positronic.adapters.export import export_checkpoint, export_remote_code

        export = export_remote_code if self.format == "hf-remote-code" else export_checkpoint
        found = export(newest_of(self.folder), self.out, dtype=dtype, shard_bytes=shard_bytes)
        if self.json:
            print_json({"format": self.format} | found.to_json())
            return
        print(
            f"{self.out}: {found.parameters:,} parameters of family {found.family} as {found.dtype}, "
            f"{len(found.files)} files, {found.n_bytes:,} bytes"
        )
        say(_ways(self.out, self.format == "hf-remote-code"))

    def _checked(self) -> tuple[str | None, int]:
        """Type and size of a file, before anything is loaded."""
        if self.format == "gguf":
            raise ConfigError(
                "A GGUF file names a graph that llama.cpp has in C++, and llama.cpp has none for these families; use "
                "--format hf-remote-code and Transformers, or positronic's own commands."
            )
        if self.format not in FORMATS:
            raise ConfigError(f"There is no format {self.format!r}. {did_you_mean(self.format, FORMATS)}")
        bf16 = self.format == "safetensors-bf16"
        if bf16 and self.dtype not in (None, "bfloat16"):
            raise ConfigError(f"--format {self.format} is bfloat16 and --dtype {self.dtype}; use --format safetensors.")
        size = re.fullmatch(r"(\d+)(MB|GB)", self.shard_size)
        if size is None or int(size[1]) < 1:
            raise ConfigError(f"--shard-size is {self.shard_size!r}; write 500MB or 2GB, say.")
        return "bfloat16" if bf16 else self.dtype, int(size[1]) * UNITS[size[2]]


def _ways(out: Path, brings_code: bool) -> str:
    """How Transformers opens what was written."""
    here = f"import positronic.adapters.hf, then AutoModelForCausalLM.from_pretrained({str(out)!r})"
    if not brings_code:
        return f"In Transformers: {here}. Where positronic is not installed: --format hf-remote-code."
    return f"In Transformers: {here}; or, where positronic is not installed, with trust_remote_code=True."
