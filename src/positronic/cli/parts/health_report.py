"""Every organ of a checkpoint looked at, and the verdicts told: as lines, as JSON, as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from positronic.cli.console import print_json, say, table
from positronic.errors import DataError

if TYPE_CHECKING:
    from positronic.data import Document
    from positronic.observe import Health

__all__ = ["report_health"]


def report_health(
    folder: Path,
    data: Sequence[str] = (),
    *,
    max_bytes: int,
    out: Path | None = None,
    device: str = "auto",
    as_json: bool = False,
) -> "Health":
    """Look at the model in `folder` while it reads `data`, or what comes with Python; tell, and write a page."""
    from positronic.checkpoint import load
    from positronic.eval import bits_per_byte
    from positronic.observe import health, sample_rows
    from positronic.train import pick_device

    place = pick_device(device, "float32")
    model, tokenizer = load(folder, device=place.torch_device)
    documents = _documents(data, max_bytes)
    score = bits_per_byte(model, tokenizer, documents)
    ids = tokenizer.encode_batch([document.text for document in documents])
    rows = sample_rows(ids, tokenizer.begin_id, model.config.context).to(place.torch_device)
    found = health(model, rows, steps=_steps(folder), score=score)
    if out is not None:
        _write(found, folder, out)
    if as_json:
        print_json({"folder": str(folder)} | found.to_json())
    else:
        _tell(found, folder)
    return found


def _documents(data: Sequence[str], max_bytes: int) -> "list[Document]":
    from positronic.data import Document, excerpt, open_source
    from positronic.data.sources.embedded import topics

    if max_bytes < 1:
        raise DataError(f"--max-bytes is {max_bytes}; use 1 or more (20000 is usual).")
    if data:
        return [document for path in data for document in excerpt(open_source(path), max_bytes)]
    text = "\n\n".join(topics()).encode()[:max_bytes].decode(errors="ignore")
    return [Document(text, "Python's documentation")]


def _write(found: "Health", folder: Path, out: Path) -> None:
    from positronic.viz.health import write_health

    try:
        write_health(found, f"Health of {folder}", out)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); give another --out.") from None
    say(f"Report: {out}")


def _tell(found: "Health", folder: Path) -> None:
    table(f"{folder}: {found.verdict}", ["", "layer by layer", "verdict"], _rows(found))
    for name, lines in found.findings().items():
        places = dict.fromkeys(line.place + (f" ({line.detail})" if line.detail else "") for line in lines)
        print(f"{lines[0].verdict}: {name} in {', '.join(places)}. {lines[0].advice}")
    if not found.trained:
        print("A new model: its organs are closed and silent by design, and only what is not finite is reported.")


def _steps(folder: Path) -> int | None:
    """Optimizer steps by the checkpoint's record; its tensors are not read."""
    from positronic.checkpoint.folder import TRAIN_META
    from positronic.checkpoint.open_checkpoint import open_folder

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
