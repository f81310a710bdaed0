"""Notebooks, pages and figures: the committed files are what the modules give, and every cell runs and shows it."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

import pytest

import positronic_course
from positronic_course import CHAPTERS, notebooks
from positronic_course.exercises import questions

PACKAGE = Path(positronic_course.__file__).parent
COMMITTED = Path(__file__).parents[2] / "docs" / "course"
AGAIN = "run `python -m positronic_course.notebooks` and commit docs/course"


NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")


def difference(a, b, share=0.02, least=1e-4):
    """Where two texts differ: in a word, or in a number by more than a share of it. "" where they are alike.

    Another machine adds in another order: its numbers have other last digits, and what is 0 but for rounding may be
    anything that small.
    """
    words_a, words_b = (NUMBER.sub(" # ", text).split() for text in (a, b))
    if words_a != words_b:
        return next(f"{x} is {y}" for x, y in zip_longest(words_a, words_b) if x != y)
    for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
        if abs(float(x) - float(y)) > max(share * abs(float(y)), least):
            return f"{x} is {y}"
    return ""


def shown(cell):
    """What a cell of a notebook's JSON shows, as text."""
    outputs = cell.get("outputs", [])
    return "".join("".join(o.get("text", o.get("data", {}).get("image/svg+xml", ""))) for o in outputs)


def run(notebook, folder):
    """All output of a notebook's cells, each as text; a cell that raises ends the test."""
    nbclient = pytest.importorskip("nbclient", reason="install positronic[dev] to run the notebooks")
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(json.loads(notebook))
    book = nbformat.reads(notebook, as_version=4)
    nbclient.NotebookClient(
        book, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    return [shown(cell) for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture(autouse=True)
def this_course_on_one_thread(monkeypatch):
    """The kernel is a process of its own: it shall import the course that is tested here."""
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


def without_outputs(path):
    """A committed or written file, but for what its cells showed; a figure is all output."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        book = json.loads(text)
        return [{k: v for k, v in cell.items() if k != "outputs"} for cell in book["cells"]], book["metadata"]
    return "" if path.suffix == ".svg" else re.sub(r"It prints:\n\n```text\n.*?```", "", text, flags=re.S)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    notebooks.write(folder)
    return folder


def test_the_committed_files_are_what_the_modules_give(written):
    """Code and prose to the byte; what was printed and drawn, to two percent of every number."""
    here, there = (
        sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        for folder in (written, COMMITTED)
    )
    assert here == there, AGAIN
    for path in here:
        new, old = written / path, COMMITTED / path
        assert without_outputs(new) == without_outputs(old), f"{path} is not up to date: {AGAIN}"
        differs = difference(new.read_text("utf-8"), old.read_text("utf-8"))
        assert not differs, f"{path} is not up to date, {differs}: {AGAIN}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_notebook_is_valid_runs_from_top_to_bottom_and_shows_what_it_carries(name, tmp_path):
    notebook = (COMMITTED / "notebooks" / f"{name}.ipynb").read_text("utf-8")
    found = run(notebook, tmp_path)
    carried = [shown(cell) for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    assert len(found) == len(carried)
    for new, old in zip(found, carried, strict=True):
        assert not difference(new, old), difference(new, old)
    asked = questions(vars(import_module("positronic_course.exercises." + name.replace("ch", "ex", 1))))
    assert carried[-len(asked) :] == ["not yet\n"] * len(asked)
    assert sum(text.startswith("<svg") for text in carried) == 1
    assert any(text and not text.startswith("<svg") for text in carried[: -len(asked)]), "nothing is printed"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_page_shows_the_figure_and_what_the_demonstration_prints(name):
    page = (COMMITTED / f"{name}.md").read_text("utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert pictures == [f"figures/{name}.svg"]
    assert (COMMITTED / pictures[0]).stat().st_size < 60_000
    assert (COMMITTED / pictures[0]).read_text("utf-8").startswith("<svg")
    book = json.loads((COMMITTED / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
    for cell in book["cells"]:
        text = shown(cell)
        if text and not text.startswith("<svg") and text != "not yet\n":
            assert text.rstrip() in page


def test_a_drawing_is_shown_and_the_words_below_a_definition_are_not():
    code = "from positronic_course.drawing import Drawing\nDrawing()"
    assert notebooks.Piece(code, True).run({}).picture.startswith("<svg")
    assert not notebooks.Piece('n = 3\n"""How many there are."""', True).run({}).picture


def test_numbers_are_alike_but_for_rounding_and_words_are_not():
    assert not difference("loss 1.234, 3e-17 in x[0]", "loss 1.236, -1e-16 in x[0]")
    assert difference("loss 1.234", "loss 1.334") == "1.234 is 1.334"
    assert difference("the cat", "the dog") == "cat is dog"
    assert difference("1 2", "1 2 3")


@pytest.mark.parametrize("name", CHAPTERS)
def test_nothing_of_a_module_is_lost_on_the_way(name):
    """All code of the chapter stands in cells, line by line and in order; all words of its docstring in the prose."""
    module = (PACKAGE / f"{name}.py").read_text("utf-8")
    pieces = [piece for piece in notebooks.chapter_pieces(name, module) if ".figures." not in piece.text]
    code = [line.strip() for piece in pieces if piece.is_code for line in piece.text.splitlines() if line.strip()]
    prose = " ".join(piece.text for piece in pieces if not piece.is_code).replace("\\*", "*").split()
    documentation = import_module(f"positronic_course.{name}").__doc__
    after = module.split('"""', 2)[2].splitlines()
    expected = [line.strip() for line in after if line.strip() and not line.startswith("if __name__")]
    kept = iter(code)
    lost = [line for line in expected if not line.startswith("# ") and line not in kept]
    assert not lost, lost
    words = [word for word in documentation.partition("\n")[2].split() if set(word) != {"-"}]
    heard = iter(prose)
    lost = [word for word in words if word not in heard]
    assert not lost, lost[:5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One\n---\nmore", "## One\n\nmore"),
        ("so\n\n    a = b\n\n      c\n\nthen", "so\n\n```text\na = b\n\n  c\n```\n\nthen"),
        ("so\n    a\nthen\n    b", "so\n\n```text\na\n```\n\nthen\n\n```text\nb\n```"),
        ("a*b*c but *this*", "a\\*b\\*c but *this*"),
    ],
)
def test_plain_text_becomes_markdown(text, expected):
    assert notebooks.markdown(text) == expected


def first_cell(notebook):
    return "".join(json.loads(notebook)["cells"][0]["source"])


@pytest.mark.parametrize("source", [notebooks.SOURCE, "git+https://example.org/mine.git"])
def test_the_first_cell_installs_only_where_the_course_is_missing(source, monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    code = first_cell(notebooks.notebook([], source))
    exec(code, {})
    assert asked == []
    exec(code.replace('"positronic_course"', '"no_course_here"'), {})
    install = ["-m", "pip", "install", "--quiet", "--no-deps", source]
    assert asked == [[sys.executable, *install]]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_notebook_installs_from_the_project_that_it_lies_in(name):
    folder = COMMITTED / "notebooks"
    source = re.search(r'SOURCE = "(.+)"', first_cell((folder / f"{name}.ipynb").read_text("utf-8")))[1]
    project = tomllib.loads((folder / source / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["name"] == "positronic"
    assert (folder / source / "src" / "positronic_course" / f"{name}.py").exists()


ROOT = COMMITTED.parents[1]


@pytest.mark.parametrize("path", ["docs/course/README.md", "docs/status.md"])
def test_chapters_and_exercises_are_as_many_as_is_said(path):
    said = re.findall(r"(\d+) chapters, (\d+) exercises", (ROOT / path).read_text("utf-8"))
    assert said == [(str(len(CHAPTERS)), str(notebooks.n_exercises()))]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_with_the_solutions_in_the_blanks_every_exercise_says_ok(name, tmp_path):
    file = name.replace("ch", "ex", 1)
    book = json.loads((COMMITTED / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
    filled = 0
    for cell in book["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] == "code" and "print(verdict(" in code:
            solved = code[code.index("def ") + 4 : code.index("(")]
            check = code[code.index("print(verdict(") :]
            cell["source"] = f"from positronic_course.solutions.{file} import {solved}\n{check}"
            filled += 1
    outputs = run(json.dumps(book), tmp_path)
    assert outputs[-filled:] == ["ok\n"] * filled


LONGER = [("ch10_training", "epochs=3", "epochs=12"), ("ch13_oscillators", "range(120)", "range(600)")]
"""Demonstrations that train, with the number that says for how long."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "short", "long"), LONGER)
def test_a_longer_demonstration_runs_too(name, short, long, tmp_path):
    notebook = (COMMITTED / "notebooks" / f"{name}.ipynb").read_text("utf-8")
    assert short in notebook
    assert any(run(notebook.replace(short, long), tmp_path))
