"""Text that every Python installation carries: its documentation topics (English) and its standard library (code)."""

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SHARES", "gather", "topics"]

SHARES = {"english": 0.35, "code": 0.65}
"""Of a mixture of the two, by the names of their files."""

CODE_BYTES = 4_000_000
SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "encodings",
    "__pycache__",
}


def gather(folder: Path) -> tuple[int, int]:
    """Write one jsonl of documentation topics and one of library modules; returns their sizes in bytes of text."""
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder / "english.jsonl", topics()), _write(folder / "code.jsonl", library())


def topics() -> Iterator[str]:
    """The texts behind `help()` in the interpreter: statements, data model, formatting, in plain English."""
    from pydoc_data.topics import topics as texts

    yield from (texts[name] for name in sorted(texts))


def library() -> Iterator[str]:
    """Modules of the standard library in order of their names, up to 4 MB."""
    root = Path(sysconfig.get_paths()["stdlib"])
    taken = 0
    for path in sorted(root.rglob("*.py")):
        if SKIPPED & set(path.relative_to(root).parts):
            continue
        try:
            text = path.read_text("utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        size = len(text.encode())
        if size and taken + size <= CODE_BYTES:
            taken += size
            yield text


def _write(path: Path, texts: Iterator[str]) -> int:
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            size += len(text.encode())
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return size
