"""What a reader may rely on: NumPy alone, chapters that look back only, short, and demonstrations that run."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from positronic_course import CHAPTERS

PACKAGE = Path(__file__).parents[2] / "src" / "positronic_course"
MODULES = sorted(PACKAGE.rglob("*.py"))
WRITTEN = [name for name in CHAPTERS if (PACKAGE / f"{name}.py").exists()]
ALLOWED = {"numpy", "matplotlib", "positronic_course"} | sys.stdlib_module_names


def imports(tree: ast.AST) -> list[str]:
    """Modules that are imported anywhere below; a name from the package is its own module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name is from; write positronic_course.x"
            if node.module == "positronic_course":
                found += [f"positronic_course.{alias.name}" for alias in node.names]
            else:
                found.append(node.module or "")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_numpy_and_the_standard_library_alone(path):
    tree = ast.parse(path.read_text("utf-8"))
    assert {name.split(".")[0] for name in imports(tree)} <= ALLOWED
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = sum(name.startswith("matplotlib") for function in functions for name in imports(function))
    everywhere = sum(name.startswith("matplotlib") for name in imports(tree))
    assert inside >= everywhere, "matplotlib is optional: import it inside the function that draws"


def test_importing_all_of_the_course_loads_neither_torch_nor_matplotlib_nor_the_main_package():
    # Exercises are left out: their modules check what the learner wrote when they are run.
    modules = [
        ".".join(("positronic_course", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in MODULES
        if "exercises" not in path.parts
    ]
    program = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
print(sorted({{"torch", "matplotlib", "positronic"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", WRITTEN)
def test_a_chapter_looks_back_only(name):
    text = (PACKAGE / f"{name}.py").read_text("utf-8")
    number = list(CHAPTERS).index(name)
    mentioned = {f"ch{digits}" for digits in re.findall(r"\bch(\d\d)", text)}
    assert mentioned <= {earlier[:4] for earlier in list(CHAPTERS)[:number]} | {name[:4]}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_chapter_is_short_and_begins_with_its_title(name):
    text = (PACKAGE / f"{name}.py").read_text("utf-8")
    assert text.count("\n") < 300
    module = importlib.import_module(f"positronic_course.{name}")
    assert (module.__doc__ or "").startswith(CHAPTERS[name])


@pytest.mark.parametrize("name", WRITTEN)
def test_the_demonstration_of_a_chapter_runs(name):
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", f"positronic_course.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") > 2
