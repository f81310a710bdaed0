"""Measure vocabularies on the same text: bytes a token, tokens, and speed.

Examples:
  positronic tokenizer compare tok tok-bpe tok-bytes --input held-out.txt
  positronic tokenizer compare tok --input corpus.jsonl.xz --json
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from positronic.cli.console import print_json, table
from positronic.errors import DataError, TokenizerError


@dataclass(frozen=True)
class Command:
    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER ...")]
    """Tokenizer or checkpoint folders."""
    input: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")]
    """Text to encode."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.data import open_source
        from positronic.text import Tokenizer

        if not self.folders:
            raise TokenizerError("There is nothing to compare; name folders of tokenizers in front of --input.")
        texts = [document.text for path in self.input for document in open_source(path)]
        size = sum(len(text.encode()) for text in texts)
        if not size:
            raise DataError("The inputs hold no text; give files that do.")
        results: dict[str, dict[str, Any]] = {}
        for folder in self.folders:
            tokenizer = Tokenizer.load(folder)
            began = time.perf_counter()
            tokens = sum(map(len, tokenizer.encode_batch(texts)))
            seconds = time.perf_counter() - began
            results[str(folder)] = {
                "kind": tokenizer.kind,
                "vocab_size": tokenizer.vocab_size,
                "tokens": tokens,
                "bytes_per_token": size / tokens,
                "mb_per_s": size / seconds / 1e6,
            }
        if self.json:
            print_json({"bytes": size, "tokenizers": results})
            return
        rows = [
            (
                name,
                r["kind"],
                f"{r['vocab_size']:,}",
                f"{r['tokens']:,}",
                f"{r['bytes_per_token']:.3f}",
                f"{r['mb_per_s']:.2f}",
            )
            for name, r in results.items()
        ]
        columns = ["tokenizer", "kind", "entries", "tokens", "bytes a token", "MB/s"]
        table(f"{size:,} bytes of text", columns, rows)
