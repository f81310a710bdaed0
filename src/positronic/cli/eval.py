"""Bits per byte of raw UTF-8 on any text: the number that compares models whatever their vocabulary.

Every token of every document is predicted once, from the document's beginning or from at least half a context.

Examples:
  positronic eval my-run/last --data held-out.txt
  positronic eval my-run/last --data novels_valid.jsonl.xz peps_valid.jsonl.xz --json
  positronic eval my-run/last --data held-out.txt --without engram specialists
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from positronic.cli.console import print_json, say, table


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")]
    """Text to measure on."""
    context: int | None = None
    """Tokens the model sees at once; the model's own when not given."""
    stride: int | None = None
    """Tokens by which the window moves on; half a context when not given."""
    max_bytes: int | None = None
    """Measure on at most this much of each path."""
    without: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ORGAN ...")] = ()
    """Silence these organs, named by the kind of their config: attention, engram, moe, ..."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: str = "auto"
    """auto, float32 or bfloat16."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.checkpoint import load
        from positronic.data import excerpt, open_source
        from positronic.eval import Score, bits_per_byte
        from positronic.observe import ablate
        from positronic.train import pick_device

        place = pick_device(self.device, self.precision)
        model, tokenizer = load(self.folder, device=place.torch_device)
        probe = ablate(model, self.without) if self.without else None
        scores: dict[str, Score] = {}
        for path in self.data:
            source = open_source(path)
            documents = source if self.max_bytes is None else excerpt(source, self.max_bytes)
            with place.autocast():
                scores[path] = bits_per_byte(
                    model, tokenizer, documents, context=self.context, stride=self.stride, probe=probe
                )
            say(f"{path}: {scores[path].bits_per_byte:.4f} bits/byte")
        whole = Score.total(scores.values())
        if self.json:
            sources = {path: score.to_json() for path, score in scores.items()}
            print_json(whole.to_json() | {"without": list(self.without), "sources": sources})
            return
        rows = [
            (path, f"{s.bits_per_byte:.4f}", f"{s.nats_per_token:.4f}", f"{s.bytes:,}", f"{s.tokens:,}")
            for path, s in {**scores, "all": whole}.items()
        ]
        title = f"{self.folder} without {', '.join(self.without)}" if self.without else str(self.folder)
        table(title, ["text", "bits/byte", "nats/token", "bytes", "tokens"], rows)
