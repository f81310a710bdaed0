"""Learn a vocabulary from text: length-max ("spike"), byte-pair encoding, or plain bytes.

Examples:
  positronic tokenizer train --input book.txt notes/ --out tok
  positronic tokenizer train --kind bpe --vocab-size 8192 --input corpus.jsonl.xz --out tok-bpe
  positronic tokenizer train --kind bytes --out tok-bytes
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from positronic.cli.console import print_json, say
from positronic.errors import TokenizerError


@dataclass(frozen=True)
class Command:
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where to write tokenizer.json and what belongs to it."""
    input: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Text: txt, md, jsonl, json (also .gz, .xz, .zst), parquet, folders of these, hf:NAME."""
    kind: Literal["spike", "bpe", "bytes"] = "spike"
    """spike: longest match over learned byte strings; bpe: byte-pair merges; bytes: 256 bytes, nothing learned."""
    vocab_size: int = 16_512
    """Entries, the 256 bytes and 128 control tokens included."""
    max_bytes: int = 50_000_000
    """Learn from at most this much text, an equal part of each input."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.text import byte_tokenizer, train_bpe, train_length_max

        began = time.perf_counter()
        if (self.out / "tokenizer.json").exists():
            raise TokenizerError(f"{self.out} holds a tokenizer already. Give the new one another --out.")
        if self.kind == "bytes":
            if self.input:
                raise TokenizerError(
                    "Plain bytes learn nothing from text; leave --input out, or choose another --kind."
                )
            tokenizer = byte_tokenizer()
        elif not self.input:
            raise TokenizerError("There is nothing to learn from; give text with --input PATH ...")
        elif self.kind == "bpe":
            tokenizer = train_bpe(self._texts(), self.vocab_size, progress=_progress)
        else:
            tokenizer = train_length_max(self._texts(), self.vocab_size, progress=_progress)
        tokenizer.save(self.out)
        found = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.sha256}
        if self.json:
            print_json(found | {"seconds": time.perf_counter() - began, "folder": str(self.out)})
            return
        say(f"{tokenizer.vocab_size:,} entries ({tokenizer.kind}) in {time.perf_counter() - began:.1f} s -> {self.out}")

    def _texts(self) -> Iterator[str]:
        from positronic.data import excerpt, open_source

        for path in self.input:
            for document in excerpt(open_source(path), self.max_bytes // len(self.input)):
                yield document.text


def _progress(done: int, asked: int) -> None:
    say(f"  {done:,} of {asked:,} entries")
