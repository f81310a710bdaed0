"""The page of the cards, cut into sections: what each names on the left, and everything that is to be run.

In a row of a table the first cell names, the second says what it is here. Every other piece of code on the page is to
be run, in its order: code in second cells and in prose, and fenced blocks (sh: a command a line; python; python apart:
in a process without positronic). What could hide code from this reading is refused.
"""

import re
from dataclasses import dataclass, field

__all__ = ["Line", "Section", "commands", "read_page"]

CODE = re.compile(r"(?P<refused>refused: )?`(?P<text>[^`]+)`")
FLAG = re.compile(r"(?<![\w-])--\w[\w-]*")
CELLS = re.compile(r"(?<!\\)\|")
FENCES = ("sh", "python", "python apart")


@dataclass(frozen=True)
class Line:
    """Something to run."""

    text: str
    form: str = "code"
    """"code" in a sentence, or the word behind the fence of its block."""
    refused: bool = False
    """A command that ends with 2."""


@dataclass
class Section:
    title: str
    lines: list[Line] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    """Code on the left."""
    spoken: set[str] = field(default_factory=set)
    """Flags that second cells speak of outside code."""


def read_page(text: str) -> list[Section]:
    """What stands before the first heading of a section comes first, as a section without a title."""
    sections = [Section("")]
    lines = iter(text.splitlines())
    for line in lines:
        here = sections[-1]
        if line.startswith("## "):
            sections.append(Section(line[3:]))
        elif line.startswith("```"):
            here.lines.append(_block(line[3:], lines))
        elif line.startswith("|"):
            _row(line, here)
        else:
            _sentence(line, here)
    return sections


def commands(block: str) -> list[str]:
    """The commands of a sh block; a backslash at a line's end joins it with the next."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def _block(form: str, lines) -> Line:
    assert form in FENCES, f"nothing runs a block of {form!r}"
    inside = []
    for line in lines:
        if line == "```":
            return Line("\n".join(inside), form)
        inside.append(line)
    raise AssertionError(f"a block of {form} has no end")


def _row(line: str, section: Section) -> None:
    first, second = (cell.strip().replace(r"\|", "|") for cell in CELLS.split(line.strip("|")))
    if set(first + second) <= set("-: ") or second == "here":
        return
    section.named += [found["text"] for found in CODE.finditer(first)] or [first]
    before = len(section.lines)
    _sentence(second, section)
    section.spoken.update(FLAG.findall(CODE.sub("", second)))
    said = any(word in second for word in ("nothing", "above", "in the block", "always", "the same"))
    assert len(section.lines) > before or said, f"{first} has nothing to run, and does not say why: {second}"


def _sentence(line: str, section: Section) -> None:
    assert not line.startswith(("    ", "\t", "~~~", "<")), f"code that nothing would run: {line}"
    found = [Line(code["text"], refused=code["refused"] is not None) for code in CODE.finditer(line)]
    assert line.count("`") == 2 * len(found), f"backticks without a partner: {line}"
    section.lines += found
