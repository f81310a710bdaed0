"""The chapters as notebooks and as pages: cut from the modules, so that there is one text.

    python -m positronic_course.notebooks --out docs/course

writes README.md, and for each chapter a page chNN_name.md, a figure figures/chNN_name.svg and a notebook
notebooks/chNN_name.ipynb. A chapter is cut into its docstring, its definitions, its figure, its demonstration (where a
comment at the margin begins a new piece) and the exercises of its file. Every cell is run on the way, and what it shows
is kept: the same modules give the same bytes on the same machine, and the same numbers but for their last digits on
another.
"""

import argparse
import ast
import io
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import positronic_course
from positronic_course import CHAPTERS
from positronic_course.drawing import Drawing
from positronic_course.exercises import questions
from positronic_course.figures import caption

SOURCE = "../../.."
"""Where a notebook installs the course from: the project that it lies in, seen from docs/course/notebooks."""

FIRST_CELL = """\
# Where the course is not installed, this installs it, out of the project that this notebook lies in. It needs NumPy.
import importlib.util
import subprocess
import sys

SOURCE = "{source}"
if importlib.util.find_spec("positronic_course") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", SOURCE], check=True)
"""

HOW_TO = """\
Every page is one module of `positronic_course`, cut into prose and code, with what the code prints; the notebooks hold
the same. A notebook that is opened in `docs/course/notebooks` of a copy of the project installs the course from there.
All are written by `python -m positronic_course.notebooks`: change the modules, not the pages.

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
    """A part of a chapter: Markdown, or code and what it shows when it is run."""

    text: str
    is_code: bool
    printed: str = ""
    picture: str = ""
    """SVG."""

    def run(self, names: dict[str, object]) -> "Piece":
        """The piece with its output, as a notebook gives it: what is printed, and the last expression if drawn."""
        if not self.is_code:
            return self
        statements = ast.parse(self.text).body
        last = ast.Expression(statements.pop().value) if isinstance(statements[-1], ast.Expr) else None  # type: ignore
        with redirect_stdout(io.StringIO()) as out:
            exec(compile(ast.Module(statements, []), "a cell", "exec"), names)
            shown = None if last is None else eval(compile(last, "a cell", "eval"), names)
        return Piece(self.text, True, out.getvalue(), str(shown) if isinstance(shown, Drawing) else "")


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
    yield from figure_pieces(name)
    yield Piece("## See it run", False)
    shown = source.splitlines()[demonstration.lineno :]
    yield from demonstration_pieces(textwrap.dedent("\n".join(shown)))


def figure_pieces(name: str) -> Iterator[Piece]:
    """What the figure shows, and the cell that draws it."""
    file = name.replace("ch", "fig", 1)
    yield Piece(f"## In a picture\n\n{caption(name)}", False)
    yield Piece(f"from positronic_course.figures.{file} import figure\n\nfigure()", True)


def demonstration_pieces(code: str) -> Iterator[Piece]:
    """A comment at the margin after an empty line is prose; what follows it is a cell."""
    for paragraph in re.split(r"(?:\A|\n\n)(?=# )", code):
        said = re.match(r"(?:# .*\n)+", paragraph)
        if said:
            yield Piece(" ".join(line.removeprefix("# ") for line in said.group().splitlines()), False)
        rest = paragraph[said.end() if said else 0 :].strip("\n")
        if rest:
            yield Piece(at_margin(rest), True)


def at_margin(code: str) -> str:
    """Statements that stood inside a function, with two empty lines around each function of their own."""
    blocks = re.split(r"\n\n(?=\S)", code)
    gaps = ["\n\n" + "\n" * ("def " in (a[:4], b[:4])) for a, b in itertools.pairwise(blocks)]
    return "".join(part for pair in zip(blocks, [*gaps, ""], strict=True) for part in pair)


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


def pieces(name: str) -> list[Piece]:
    """All of a chapter and its exercises, run from top to bottom."""
    package, file = Path(positronic_course.__file__).parent, name.replace("ch", "ex", 1)
    chapter = (package / f"{name}.py").read_text("utf-8")
    exercises = (package / "exercises" / f"{file}.py").read_text("utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    return [piece.run(names) for piece in (*chapter_pieces(name, chapter), *exercise_pieces(file, exercises))]


def outputs(piece: Piece, number: int) -> list[dict[str, object]]:
    """What a notebook keeps of the cell that was run as the `number`-th."""
    kept: list[dict[str, object]] = []
    if piece.printed:
        kept.append({"name": "stdout", "output_type": "stream", "text": piece.printed.splitlines(keepends=True)})
    if piece.picture:
        data = {"image/svg+xml": piece.picture.splitlines(keepends=True), "text/plain": ["a drawing"]}
        kept.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return kept


def notebook(chapter: Iterable[Piece], source: str = SOURCE) -> str:
    """The JSON of a notebook of these pieces, format 4.5."""
    cells, n_run = [], 0
    for number, piece in enumerate([Piece(FIRST_CELL.format(source=source).rstrip(), True), *chapter]):
        cell = {"id": f"cell-{number:03}", "metadata": {}, "source": piece.text.splitlines(keepends=True)}
        n_run += piece.is_code
        code = {"cell_type": "code", "execution_count": n_run, "outputs": outputs(piece, n_run)}
        cells.append(cell | (code if piece.is_code else {"cell_type": "markdown"}))
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def on_page(name: str, piece: Piece) -> Iterator[str]:
    """A piece as Markdown: the picture in place of the cell that draws it, and below other code what it printed."""
    if piece.picture:
        yield f"![{CHAPTERS[name]}](figures/{name}.svg)"
    elif piece.is_code:
        yield f"```python\n{piece.text}\n```"
        if piece.printed and "print(verdict(" not in piece.text:
            yield f"It prints:\n\n```text\n{piece.printed.rstrip()}\n```"
    else:
        yield piece.text


def page(name: str, chapter: Iterable[Piece]) -> str:
    """The chapter as one Markdown page."""
    order = list(CHAPTERS)
    at = order.index(name)
    ways = ["[Contents](README.md)", f"[Notebook](notebooks/{name}.ipynb)"]
    ways += [f"[Before: {CHAPTERS[other]}]({other}.md)" for other in order[at - 1 : at] if at]
    ways += [f"[Next: {CHAPTERS[other]}]({other}.md)" for other in order[at + 1 : at + 2]]
    parts = [part for piece in chapter for part in on_page(name, piece)]
    return "\n\n".join([*parts, " · ".join(ways)]) + "\n"


def index() -> str:
    """The contents, and what to do with them."""
    title, _, prose = (positronic_course.__doc__ or "").partition("\n")
    rows = [
        f"| {int(name[2:4])} | [{title}]({name}.md) | [notebook](notebooks/{name}.ipynb) |"
        for name, title in CHAPTERS.items()
    ]
    table = "\n".join(["| | chapter | |", "|---|---|---|", *rows])
    count = f"{len(CHAPTERS)} chapters, {n_exercises()} exercises."
    return f"# {title.rstrip('.')}\n\n{markdown(prose.strip())}\n\n{HOW_TO}\n{count}\n\n{table}\n"


def n_exercises() -> int:
    """Of all chapters together."""
    files = [import_module(f"positronic_course.exercises.{name.replace('ch', 'ex', 1)}") for name in CHAPTERS]
    return sum(len(questions(vars(file))) for file in files)


def write(out: Path, source: str = SOURCE) -> list[Path]:
    """All pages and notebooks; the paths that were written."""
    texts = {out / "README.md": index()}
    for name in CHAPTERS:
        chapter = pieces(name)
        texts[out / f"{name}.md"] = page(name, chapter)
        texts[out / "figures" / f"{name}.svg"] = next(piece.picture for piece in chapter if piece.picture)
        texts[out / "notebooks" / f"{name}.ipynb"] = notebook(chapter, source)
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
