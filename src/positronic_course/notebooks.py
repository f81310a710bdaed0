"""The chapters as notebooks and as pages: cut from the modules, so that there is one text.

    python -m positronic_course.notebooks --out docs/course

writes README.md, a page chNN_name.md and a notebook notebooks/chNN_name.ipynb for each chapter. The same modules give
the same bytes. A chapter is cut into its docstring, its definitions, its demonstration (where a comment at the margin
begins a new piece) and the exercises of its file.
"""

import argparse
import ast
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import positronic_course
from positronic_course import CHAPTERS

SOURCE = "git+https://example.org/positronic.git"
"""Where a notebook installs the course from. The project has no public address yet; --source puts in yours."""

FIRST_CELL = """\
# On Colab and Kaggle this installs the course, which needs NumPy alone. Where it is installed, nothing happens.
import importlib.util
import subprocess
import sys

SOURCE = "{source}"  # the address that you have the course from
if importlib.util.find_spec("positronic_course") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", SOURCE], check=True)
"""

HOW_TO = """\
Every page is one module of `positronic_course`, cut into prose and code; the notebooks hold the same and run on Colab
and Kaggle, too. All are written by `python -m positronic_course.notebooks`: change the modules, not the pages.

What a learner does with a chapter:

1. Read it from top to bottom. The derivation stands before the code.
2. Run its demonstration: `python -m positronic_course.ch05_attention`. Change a number, guess what will happen, run it
   again.
3. Solve its exercises in `src/positronic_course/exercises/`: put your lines in the place of `return ...` and run
   `python -m positronic_course.exercises.ex05_attention`. It says `ok`, `not yet`, or what is wrong with the number.
   In a notebook the same checks stand below each question.
4. Only then look into `src/positronic_course/solutions/`.
"""


@dataclass(frozen=True)
class Piece:
    """A part of a chapter: Markdown, or code."""

    text: str
    is_code: bool


def lines_of(source: str, first: ast.stmt, last: ast.stmt) -> str:
    """Source of the statements from first to last, decorators included."""
    starts = [first.lineno, *(decorator.lineno for decorator in getattr(first, "decorator_list", []))]
    return "\n".join(source.splitlines()[min(starts) - 1 : last.end_lineno])


def markdown(text: str) -> str:
    """A docstring's plain text as Markdown: underlined lines become headings, what is indented becomes a block."""
    done: list[str] = []
    inside = False
    for line in [*text.splitlines(), ""]:
        indented = line.startswith("    ")
        if inside and not indented and line.strip():
            while not done[-1]:
                done.pop()
            done += ["```", ""]
        if indented and not inside:
            done += [] if done and not done[-1] else [""]
            done.append("```text")
        inside = indented or (inside and not line.strip())
        if not inside and done and line and set(line) == {"-"}:
            done[-1:] = [f"## {done[-1]}", ""]
        else:
            done.append(line[4:] if indented else line if inside else re.sub(r"(?<=\w)\*(?=\w)", r"\\*", line))
    while done and not done[-1]:
        done.pop()
    return "\n".join([*done, "```"] if inside else done)


def chapter_pieces(name: str, source: str) -> Iterator[Piece]:
    """The chapter itself: prose, definitions, demonstration."""
    title, _, prose = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    yield Piece(f"# {int(name[2:4])}. {title.rstrip('.')}\n\n{markdown(prose.strip(chr(10)))}", False)
    _, *statements = ast.parse(source).body
    *definitions, demonstration = statements
    group: list[ast.stmt] = []
    for statement in definitions:
        stands_alone = isinstance(statement, ast.FunctionDef | ast.ClassDef)
        imports = isinstance(statement, ast.Import | ast.ImportFrom)
        if group and (stands_alone or imports != isinstance(group[-1], ast.Import | ast.ImportFrom)):
            yield Piece(lines_of(source, group[0], group[-1]), True)
            group = []
        if stands_alone:
            yield Piece(lines_of(source, statement, statement), True)
        else:
            group.append(statement)
    if group:
        yield Piece(lines_of(source, group[0], group[-1]), True)
    yield Piece("## See it run", False)
    shown = source.splitlines()[demonstration.lineno :]
    yield from demonstration_pieces(textwrap.dedent("\n".join(shown)))


def demonstration_pieces(code: str) -> Iterator[Piece]:
    """A comment at the margin after an empty line is prose; what follows it is a cell."""
    for paragraph in re.split(r"(?:\A|\n\n)(?=# )", code):
        said = re.match(r"(?:# .*\n)+", paragraph)
        if said:
            yield Piece(" ".join(line.removeprefix("# ") for line in said.group().splitlines()), False)
        rest = paragraph[said.end() if said else 0 :].strip("\n")
        if rest:
            yield Piece(rest, True)


def exercise_pieces(file: str, source: str) -> Iterator[Piece]:
    """Each question, then a cell with the blank and its check."""
    tree = ast.parse(source)
    yield Piece(
        f"## Exercises\n\nPut your lines in the place of `return ...`. The file is `exercises/{file}.py`.", False
    )
    needed = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    own = [ast.unparse(node) for node in needed if "positronic_course.exercises" not in ast.unparse(node)]
    blocks = ["\n".join(own), f"from positronic_course.exercises import {file}, verdict"]
    yield Piece("\n\n".join(block for block in blocks if block), True)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("check_"):
            continue
        asked, answer = node.body
        yield Piece(f"### {node.name}\n\n{markdown(ast.get_docstring(node) or '')}", False)
        head = source.splitlines()[node.lineno - 1 : asked.lineno - 1]
        blank = "\n".join([*head, lines_of(source, answer, answer)])
        yield Piece(f"{blank}\n\n\nprint(verdict({file}.check_{node.name}, {node.name}))", True)


def pieces(name: str, package: Path) -> list[Piece]:
    """All of a chapter and its exercises."""
    file = name.replace("ch", "ex", 1)
    chapter = (package / f"{name}.py").read_text("utf-8")
    exercises = (package / "exercises" / f"{file}.py").read_text("utf-8")
    return [*chapter_pieces(name, chapter), *exercise_pieces(file, exercises)]


def notebook(name: str, package: Path, source: str = SOURCE) -> str:
    """The notebook's JSON, format 4.5."""
    cells = []
    for number, piece in enumerate([Piece(FIRST_CELL.format(source=source).rstrip(), True), *pieces(name, package)]):
        cell = {"id": f"cell-{number:03}", "metadata": {}, "source": piece.text.splitlines(keepends=True)}
        code: dict[str, object] = {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.append(cell | (code if piece.is_code else {"cell_type": "markdown"}))
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def page(name: str, package: Path) -> str:
    """The chapter as one Markdown page."""
    order = list(CHAPTERS)
    at = order.index(name)
    ways = ["[Contents](README.md)", f"[Notebook](notebooks/{name}.ipynb)"]
    ways += [f"[Before: {CHAPTERS[other]}]({other}.md)" for other in order[at - 1 : at] if at]
    ways += [f"[Next: {CHAPTERS[other]}]({other}.md)" for other in order[at + 1 : at + 2]]
    parts = [f"```python\n{piece.text}\n```" if piece.is_code else piece.text for piece in pieces(name, package)]
    return "\n\n".join([*parts, " · ".join(ways)]) + "\n"


def index() -> str:
    """The contents, and what to do with them."""
    title, _, prose = (positronic_course.__doc__ or "").partition("\n")
    rows = [
        f"| {int(name[2:4])} | [{title}]({name}.md) | [notebook](notebooks/{name}.ipynb) |"
        for name, title in CHAPTERS.items()
    ]
    table = "\n".join(["| | chapter | |", "|---|---|---|", *rows])
    return f"# {title.rstrip('.')}\n\n{markdown(prose.strip())}\n\n{HOW_TO}\n{table}\n"


def write(out: Path, source: str = SOURCE) -> list[Path]:
    """All pages and notebooks; the paths that were written."""
    package = Path(positronic_course.__file__).parent
    texts = {out / "README.md": index()}
    for name in CHAPTERS:
        texts[out / f"{name}.md"] = page(name, package)
        texts[out / "notebooks" / f"{name}.ipynb"] = notebook(name, package, source)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return list(texts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="notebooks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("docs/course"), help="folder of the pages (default docs/course)"
    )
    parser.add_argument("--source", default=SOURCE, help="what `pip install` is given in the first cell of a notebook")
    options = parser.parse_args()
    print(f"{len(write(options.out, options.source))} files written to {options.out}")
