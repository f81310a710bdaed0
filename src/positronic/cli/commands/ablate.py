"""What each organ is worth: bits per byte without it, with an interval over documents; or what one prompt loses.

Organs are silenced in turn, then the mixers of each layer, with the same weights: what the rest loses with them, not
what it would have learned without them. Named organs or layers alone are measured where some are named.

Examples:
  positronic ablate my-run/last --data held-out.jsonl
  positronic ablate my-run/last --data novels_valid.jsonl.xz --max-bytes 200000 --json
  positronic ablate my-run/last --data held-out.jsonl --organs engram specialists
  positronic ablate my-run/last --data held-out.jsonl --layers 1 2
  positronic ablate tuned/last --prompt "Hello, who are you?" --chat
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from positronic.cli.console import print_json, say, table
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.lm import LM
    from positronic.observe.module_paths import Place
    from positronic.probe import Probe
    from positronic.text import Tokenizer


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Text to measure on, of 8 documents or more."""
    prompt: str | None = None
    """In place of data: one text, whose logits are compared."""
    chat: bool = False
    """The prompt is a user's message."""
    organs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ORGAN ...")] = ()
    """Silence these, named by the kind of their config: attention, engram, ..."""
    layers: Annotated[tuple[int, ...], tyro.conf.arg(metavar="NUMBER ...")] = ()
    """Silence the mixers of these layers, counted from 1."""
    max_bytes: int | None = None
    """Measure on at most this much of each path."""
    seed: int = 0
    """Of the documents drawn again for the intervals."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: str = "auto"
    """auto, float32 or bfloat16."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        self._check()
        from positronic.checkpoint import load
        from positronic.train import pick_device

        place = pick_device(self.device, self.precision)
        model, tokenizer = load(self.folder, device=place.torch_device)
        silent = self._silent(model)
        with place.autocast():
            if self.prompt is None:
                self._on_data(model, tokenizer, silent)
            else:
                self._on_prompt(model, tokenizer, silent, self.prompt)

    def _check(self) -> None:
        """Refuse what would have no effect, before anything is loaded."""
        if bool(self.data) == (self.prompt is not None):
            raise ConfigError("Give either --data PATH ..., of 8 documents or more, or --prompt TEXT.")
        if self.prompt is None and self.chat:
            raise ConfigError("--chat makes a message of a prompt; add --prompt TEXT, or leave it out.")
        if self.prompt is not None and self.max_bytes is not None:
            raise ConfigError("--max-bytes is for --data; leave it out.")

    def _on_prompt(self, model: "LM", tokenizer: "Tokenizer", silent: "dict[Place, Probe]", prompt: str) -> None:
        from positronic.generation.decoding.context import check_context
        from positronic.generation.requests.prompt import prompt_ids
        from positronic.observe import moved
        from positronic.text import Message

        ids = prompt_ids(tokenizer, [Message("user", prompt)] if self.chat else prompt)
        check_context(len(ids), model.config.max_positions)
        rows = [
            {
                **where._asdict(),
                "largest_change_of_a_logit": found.largest_change,
                "flips": found.flips,
                "next_token_flips": found.next_flips,
            }
            for where, found in zip(silent, moved(model, ids, silent.values()), strict=True)
        ]
        if self.json:
            print_json({"prompt": prompt, "tokens": len(ids), "without": rows})
            return
        shown = [
            (
                _named(row),
                f"{row['largest_change_of_a_logit']:.3g}",
                str(row["flips"]),
                "flips" if row["next_token_flips"] else "stays",
            )
            for row in rows
        ]
        table(f"{self.folder} on {len(ids)} tokens, and without", ["", "logits", "flips", "next token"], shown)
        print("logits: the largest change of one. flips: tokens whose most likely successor becomes another.")

    def _on_data(self, model: "LM", tokenizer: "Tokenizer", silent: "dict[Place, Probe]") -> None:
        import numpy as np

        from positronic.data import excerpt, open_source
        from positronic.eval import Score, compare
        from positronic.observe import changes, check_documents, verdict

        chosen = [excerpt(open_source(path), self.max_bytes) for path in self.data]
        documents = [document for some in chosen for document in some if document.text]
        check_documents(len(documents))
        say(f"{len(documents)} documents, read {1 + len(silent)} times ...")
        scores, found = compare(model, tokenizer, documents, {str(i): p for i, p in enumerate(silent.values())})
        nats, n_bytes = np.array([s.nats for s in scores]), np.array([s.bytes for s in scores])
        without = np.array([[s.nats for s in one.scores] for one in found.values()])
        whole, rows = Score.total(scores), []
        for where, one, change in zip(silent, found.values(), changes(nats, without, n_bytes, self.seed), strict=True):
            measured = {"change": change.bits_per_byte, "interval": [change.low, change.high]}
            moved = {"largest_change_of_a_logit": one.largest_change, "flips": one.flips / whole.tokens}
            rows.append({**where._asdict(), **measured, **moved, "verdict": verdict(change)})
        if self.json:
            print_json(whole.to_json() | {"documents": len(scores), "without": rows})
            return
        title = f"{self.folder}: {whole.bits_per_byte:.4f} bits/byte, and without"
        columns = ["", "lost", "from", "to", "logits", "flips", "verdict"]
        table(title, columns, map(_row, rows))
        print("lost: bits/byte, with the 95 % interval over documents. logits: the largest change of one.")
        print("flips: tokens whose most likely successor becomes another.")

    def _silent(self, model: "LM") -> "dict[Place, Probe]":
        """What to silence in turn: what was named, or everything."""
        from positronic.observe import ablate, mixers_of, organs_of
        from positronic.observe.module_paths import Place

        everything = not self.organs and not self.layers
        organs = organs_of(model) if everything else dict.fromkeys(self.organs)
        silent = {Place(organ, None): ablate(model, [organ]) for organ in organs}
        mixers = mixers_of(model)
        known = sorted({where.layer for where in mixers if where.layer is not None})
        for number in self.layers:
            if number not in known:
                span = f"layers {known[0]} to {known[-1]}; name some of these" if known else "one; name its organs"
                raise ConfigError(f"--layers names layer {number}, and this model has {span}.")
        return silent | {where: p for where, p in mixers.items() if everything or where.layer in self.layers}


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["interval"]
    return (
        _named(row),
        f"{row['change']:+.4f}",
        f"{low:+.4f}",
        f"{high:+.4f}",
        f"{row['largest_change_of_a_logit']:.3g}",
        f"{row['flips']:.1%}",
        row["verdict"],
    )


def _named(row: dict[str, Any]) -> str:
    return row["organ"].replace("_", " ") + ("" if row["layer"] is None else f", layer {row['layer']}")
