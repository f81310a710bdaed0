"""What the scripts that measure write into pages: a section in its place, samples, a course of values."""

import re
from pathlib import Path

__all__ = ["continuations", "course", "one_line", "put_section"]


def course(held_out: list[tuple[int, float]]) -> list[str]:
    """Bits per byte on the way, as a paragraph."""
    return ["On the way: " + ", ".join(f"{bits:.3f} at step {step:,}" for step, bits in held_out) + ".", ""]


def continuations(samples: dict[str, str]) -> list[str]:
    """What a model made of prompts, as quotations."""
    said = (f"> **{one_line(prompt.strip())}**{one_line(text)}\n" for prompt, text in samples.items())
    return ["How it goes on (temperature 0.7, top-p 0.92, seed 1):", "", *said]


def put_section(page: Path, text: str) -> None:
    """Into the page, in the place of the section of the same heading, its first line, or at the end."""
    heading = text.partition("\n")[0]
    old = page.read_text("utf-8") if page.exists() else ""
    rest = re.sub(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", lambda _: text + "\n", old, flags=re.MULTILINE | re.DOTALL)
    if rest == old and text not in old:
        rest = f"{old.rstrip()}\n\n{text}" if old else text
    page.write_text(rest.rstrip() + "\n", "utf-8")


def one_line(text: str) -> str:
    """For a cell of a table or a quotation."""
    return text.replace("\n", " / ").replace("|", "\\|")
