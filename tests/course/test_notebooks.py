"""Notebooks and pages: the committed files are what the modules give, and every cell runs."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import positronic_course
from positronic_course import CHAPTERS, notebooks
from positronic_course.exercises import questions

PACKAGE = Path(positronic_course.__file__).parent
COMMITTED = Path(__file__).parents[2] / "docs" / "course"
AGAIN = "run `python -m positronic_course.notebooks` and commit docs/course"


def run(notebook, folder):
    """All output of a notebook's cells, each as text; a cell that raises ends the test."""
    nbclient = pytest.importorskip("nbclient", reason="install positronic[dev] to run the notebooks")
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(json.loads(notebook))
    book = nbformat.reads(notebook, as_version=4)
    nbclient.NotebookClient(
        book, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    return [
        "".join(output.get("text", "") for output in cell.outputs) for cell in book.cells if cell.cell_type == "code"
    ]


@pytest.fixture(autouse=True)
def this_course_on_one_thread(monkeypatch):
    """The kernel is a process of its own: it shall import the course that is tested here."""
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


def test_the_committed_files_are_what_the_modules_give(tmp_path):
    written = [path.relative_to(tmp_path) for path in notebooks.write(tmp_path)]
    committed = [path.relative_to(COMMITTED) for path in COMMITTED.rglob("*") if path.is_file()]
    assert sorted(written) == sorted(committed), AGAIN
    for path in written:
        assert (tmp_path / path).read_bytes() == (COMMITTED / path).read_bytes(), f"{path} is not up to date: {AGAIN}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_notebook_is_valid_and_runs_from_top_to_bottom(name, tmp_path):
    notebook = (COMMITTED / "notebooks" / f"{name}.ipynb").read_text("utf-8")
    outputs = run(notebook, tmp_path)
    asked = questions(vars(import_module("positronic_course.exercises." + name.replace("ch", "ex", 1))))
    assert outputs[-len(asked) :] == ["not yet\n"] * len(asked)
    assert any(outputs[: -len(asked)]), "the demonstration prints nothing"


@pytest.mark.parametrize("name", CHAPTERS)
def test_nothing_of_a_module_is_lost_on_the_way(name):
    """All code of the chapter stands in cells, line by line and in order; all words of its docstring in the prose."""
    module = (PACKAGE / f"{name}.py").read_text("utf-8")
    pieces = list(notebooks.chapter_pieces(name, module))
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


def test_the_first_cell_installs_only_where_the_course_is_missing(monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    cell = json.loads(notebooks.notebook("ch01_tokenizers", PACKAGE, "git+https://example.org/mine.git"))["cells"][0]
    code = "".join(cell["source"])
    exec(code, {})
    assert asked == []
    exec(code.replace('"positronic_course"', '"no_course_here"'), {})
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "git+https://example.org/mine.git"]
    assert asked == [[sys.executable, *install]]


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
