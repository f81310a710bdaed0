"""Look at every organ of a model: is it alive, and what to do if not.

Weights, gates, gradients, rings, routers, stores and heads, a verdict a line: ok, watch or broken. What each finding
means and where its threshold lies stands in positronic/observe/health/findings.py. Without --data the model reads
documentation that comes with Python.

Examples:
  positronic health my-run/last
  positronic health my-run/last --data held-out.txt --out health.html
  positronic health my-run/last --json --strict
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from positronic.cli.console import print_json, say, table
from positronic.cli.corpus import topics
from positronic.errors import DataError

if TYPE_CHECKING:
    from positronic.data import Document
    from positronic.observe import Health


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Text that the model reads; what comes with Python when not given."""
    max_bytes: int = 20_000
    """Read at most this much of each path."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="REPORT.html")] = None
    """Write a page with plots, too."""
    strict: bool = False
    """Exit with 1 where something is broken."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        from positronic.checkpoint import load
        from positronic.eval import bits_per_byte
        from positronic.observe import health, sample_rows
        from positronic.train import pick_device

        place = pick_device(self.device, "float32")
        model, tokenizer = load(self.folder, device=place.torch_device)
        documents = self._documents()
        score = bits_per_byte(model, tokenizer, documents)
        ids = tokenizer.encode_batch([document.text for document in documents])
        rows = sample_rows(ids, tokenizer.begin_id, model.config.context).to(place.torch_device)
        found = health(model, rows, steps=_steps(self.folder), score=score)
        self._tell(found)
        return int(self.strict and found.verdict == "broken")

    def _documents(self) -> "list[Document]":
        from positronic.data import Document, excerpt, open_source

        if self.max_bytes < 1:
            raise DataError(f"--max-bytes is {self.max_bytes}; use 1 or more (20000 is usual).")
        if self.data:
            return [document for path in self.data for document in excerpt(open_source(path), self.max_bytes)]
        text = "\n\n".join(topics()).encode()[: self.max_bytes].decode(errors="ignore")
        return [Document(text, "Python's documentation")]

    def _tell(self, found: "Health") -> None:
        if self.out is not None:
            from positronic.viz.health import write_health

            try:
                write_health(found, f"Health of {self.folder}", self.out)
            except OSError as error:
                raise DataError(f"{self.out} cannot be written ({error.strerror}); give another --out.") from None
            say(f"Report: {self.out}")
        if self.json:
            print_json({"folder": str(self.folder)} | found.to_json())
            return
        table(f"{self.folder}: {found.verdict}", ["", "layer by layer", "verdict"], _rows(found))
        for name, lines in found.findings().items():
            places = dict.fromkeys(line.place + (f" ({line.detail})" if line.detail else "") for line in lines)
            print(f"{lines[0].verdict}: {name} in {', '.join(places)}. {lines[0].advice}")
        if not found.trained:
            print("A new model: its organs are closed and silent by design, and only what is not finite is reported.")


def _steps(folder: Path) -> int | None:
    """Optimizer steps by the checkpoint's record; its tensors are not read."""
    from positronic.checkpoint.folder import TRAIN_META
    from positronic.checkpoint.opening import open_folder

    sealed = open_folder(folder)
    meta = None if sealed.manifest.content.training is None else sealed.json(TRAIN_META)
    counters = meta.get("counters") if isinstance(meta, dict) else None
    steps = counters.get("step") if isinstance(counters, dict) else None
    return steps if isinstance(steps, int) else None


def _rows(found: "Health") -> list[tuple[str, ...]]:
    """One row for each reading of an organ: its mean in each layer, or all its values where it has one place."""
    from positronic.observe.health import worst

    rows: list[tuple[str, ...]] = []
    for (organ, reading), lines in found.groups().items():
        values = lines[0].values if len(lines) == 1 else [sum(line.values) / len(line.values) for line in lines]
        shown = " ".join(f"{x:.3g}" for x in values)
        rows.append((f"{organ.replace('_', ' ')}: {reading}", shown, worst(lines)))
    return rows
