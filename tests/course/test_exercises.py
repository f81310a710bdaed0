"""The exercises: solutions pass, blanks say so, and what is wrong is caught."""

import ast
import copy
import inspect
import runpy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from positronic_course import CHAPTERS, exercises
from positronic_course.exercises import Wrong, expect, questions, slope, verdict

ROOT = Path(exercises.__file__).parent.parent
FILES = [name.replace("ch", "ex", 1) for name in CHAPTERS]


def asked(name):
    return questions(vars(import_module(f"positronic_course.exercises.{name}")))


ALL = [(file, name) for file in FILES for name in asked(file)]
each_exercise = pytest.mark.parametrize(("file", "name"), ALL, ids=lambda part: part)


def check_and_solution(file, name):
    return asked(file)[name][1], getattr(import_module(f"positronic_course.solutions.{file}"), name)


def source(folder, file):
    return (ROOT / folder / f"{file}.py").read_text("utf-8")


def functions(text):
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def test_every_chapter_has_two_to_four_exercises_and_nothing_else_has():
    for folder in ("exercises", "solutions"):
        assert sorted(path.stem for path in (ROOT / folder).glob("ex*.py")) == sorted(FILES)
    for file in FILES:
        assert 2 <= len(asked(file)) <= 4
        assert sorted(asked(file)) == sorted(functions(source("solutions", file)))


@each_exercise
def test_the_solution_passes(file, name):
    assert verdict(*check_and_solution(file, name)) == "ok"


@pytest.mark.parametrize("file", FILES)
def test_the_learner_s_file_runs_and_says_not_yet(file, capsys):
    runpy.run_path(str(ROOT / "exercises" / f"{file}.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [f"{name}: not yet" for name in asked(file)]


@pytest.mark.parametrize("file", FILES)
def test_the_learner_s_file_is_blank_and_knows_no_solution(file):
    blank, solved = source("exercises", file), source("solutions", file)
    assert "solutions" not in blank
    whole = ast.unparse(ast.parse(blank))
    for name, solution in functions(solved).items():
        question = functions(blank)[name]
        documentation, answer = question.body
        assert isinstance(documentation, ast.Expr)
        assert ast.unparse(answer) in ("return ...", "return (..., ...)")
        assert ast.unparse(question.args) == ast.unparse(solution.args)
        for statement in solution.body:
            assert ast.unparse(statement) not in whole, f"{name}: the check holds a line of the solution"


def spoilt(value, by):
    """One part of a result, changed."""
    if isinstance(value, str):
        return value[::-1] + "x"
    if isinstance(value, list):
        return [spoilt(part, by) for part in value]
    return by(value)


CHANGES = {
    "sign": lambda value: -np.asarray(value),
    "percent": lambda value: value * 1.02,
    "half": lambda value: value / 2,
    "one more": lambda value: value + 1,
    "shape": lambda value: np.asarray(value)[None],
    "nan": lambda value: value * np.nan,
}


def spoil(solution, change, part):
    def wrong(*given, **named):
        result = solution(*given, **named)
        if not isinstance(result, tuple):
            return spoilt(result, CHANGES[change])
        return tuple(spoilt(value, CHANGES[change]) if i == part else value for i, value in enumerate(result))

    return wrong


@pytest.mark.parametrize("change", CHANGES)
@each_exercise
def test_a_result_with_a_wrong_sign_factor_shape_or_offset_is_caught(file, name, change):
    check, solution = check_and_solution(file, name)
    n_parts = 2 if "tuple" in str(inspect.signature(solution).return_annotation) else 1
    for part in range(n_parts):
        said = verdict(check, spoil(solution, change, part))
        assert said not in ("ok", "not yet"), f"part {part}"


OPPOSITE = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}


def mutants(function):
    """The function with one operator turned, one sign dropped, or one small number changed, each in its turn."""
    for number, node in enumerate(ast.walk(function)):
        changed = copy.deepcopy(function)
        twin = list(ast.walk(changed))[number]
        if isinstance(node, ast.BinOp) and type(node.op) in OPPOSITE:
            twin.op = OPPOSITE[type(node.op)]()
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            twin.op = ast.UAdd()
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            twin.value = node.value + 1
        elif isinstance(node, ast.Compare):
            twin.ops = [{ast.Gt: ast.LtE, ast.Lt: ast.GtE, ast.GtE: ast.Lt}.get(type(node.ops[0]), ast.NotEq)()]
        else:
            continue
        yield f"{ast.unparse(node)} -> {ast.unparse(twin)}", changed


HARMLESS = {
    ("weight_gradient", "1 -> 2"),  # reshape takes any negative number for "what is left"
    ("first_move", "-rate * np.sign(g) -> -rate / np.sign(g)"),  # 1 / sign = sign
    ("flow", "0 -> 1"),  # all layers have the same number of tokens
}
"""Changes that leave the answer right."""


@each_exercise
def test_every_slip_in_a_solution_is_caught(file, name):
    check, _ = check_and_solution(file, name)
    survivors = []
    for said, mutant in mutants(functions(source("solutions", file))[name]):
        names = dict(vars(import_module(f"positronic_course.solutions.{file}")))
        exec(compile(ast.fix_missing_locations(ast.Module([mutant], [])), "mutant", "exec"), names)
        with np.errstate(all="ignore"):
            if (name, said) not in HARMLESS and verdict(check, names[name]) in ("ok", "not yet"):
                survivors.append(said)
    assert not survivors, survivors


@pytest.mark.parametrize(
    ("got", "sentence"),
    [
        ([1.0, 2.0], "y[1] is 2; it should be -2."),
        ([-1.0, 2.0], "y[1] is 2; it should be -2, the opposite sign."),
        ([3.0, -6.0], "y[1] is -6; it should be -2; all of it is 3 times too large."),
        ([1.0], "y has the shape (1,); it should be (2,)."),
        ([1.0, np.nan], "y is not finite: [ 1. nan]. Look for an overflow, a division by 0 or a logarithm of 0."),
    ],
)
def test_a_wrong_number_is_named_with_its_place_and_the_usual_slip(got, sentence):
    with pytest.raises(Wrong) as wrong:
        expect("y", got, [1.0, -2.0])
    assert str(wrong.value) == sentence


def test_an_error_in_the_learner_s_line_is_told_and_not_raised():
    def answer(x):
        return np.linalg.inv(np.zeros((x, x)))

    said = verdict(lambda answer: answer(3), answer)
    assert said.startswith("LinAlgError: Singular matrix (answer, line ")
    assert said.endswith("return np.linalg.inv(np.zeros((x, x))))")
    assert verdict(lambda answer: answer(), answer).startswith("TypeError: ")


def test_a_partly_blank_answer_is_not_yet():
    assert verdict(lambda answer: answer(), lambda: (1.0, ...)) == "not yet"


def test_the_measured_slope_is_the_derivative_of_a_cubic():
    x = np.array([[1.0, -2.0], [0.5, 3.0]])
    assert slope(lambda x: (x**3).sum(), x) == pytest.approx(3 * x**2, abs=1e-8)
