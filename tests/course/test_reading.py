"""A learner's read-through, as far as a machine can do it: letters are defined before use, and nobody points ahead."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import positronic_course
from positronic_course import CHAPTERS

PACKAGE = Path(positronic_course.__file__).parent
LETTER = r"(?<![\w.'`\"]){}(?![\w'`\"])"
"""One capital letter by itself, as in `x (B, T, D)` or `E[ids]`."""
SHARED = {
    letter for row in re.findall(r"((?:[A-Z], )*[A-Z])  ", positronic_course.__doc__) for letter in row.split(", ")
}
"""Letters that mean one thing in the whole course."""
each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def source(name):
    return (PACKAGE / f"{name}.py").read_text("utf-8")


def exercises(name):
    return (PACKAGE / "exercises" / f"{name.replace('ch', 'ex', 1)}.py").read_text("utf-8")


def documentation(text):
    """The module's docstring, then those of its functions and classes."""
    nodes = ast.walk(ast.parse(text))
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    return [ast.get_docstring(node) for node in nodes if isinstance(node, documented) and ast.get_docstring(node)]


def letters(text):
    """Capital letters used as symbols; a sentence may begin with the word A, and a line of an example with Q: or A:"""
    words = re.sub(r"\bA(?= [a-z]|$)|^ +[QA](?=: )", "", text, flags=re.M)
    return set(re.findall(LETTER.format("([A-Z])"), words))


def is_defined_by(letter, text):
    """Something says what it is: `E = ...`, `P_t = ...`, `table E`, `E, the table`, or `E (W, D)` and words."""
    given = [
        rf"{letter}(_\w)? = ",
        rf"\b(table|matrix|the number) {letter}\b",
        rf"{letter} \([^)]*\),? +[a-z]",
        rf"{letter},? (its|the) [a-z]",
    ]
    return any(re.search(r"(?<!\w)" + pattern, text) for pattern in given)


def undefined(text, known):
    """Letters whose first use comes before a definition, in the same line at the latest."""
    missing = set()
    for letter in letters(text) - known:
        lines = text.splitlines()
        first = next(number for number, line in enumerate(lines) if letter in letters(line))
        if not is_defined_by(letter, "\n".join(lines[: first + 1])):
            missing.add(letter)
    return missing


def test_the_shared_letters_are_those_of_the_package():
    assert {*"BTDHKWFSLNRC"} == SHARED


def test_the_check_sees_an_undefined_letter_and_a_late_definition():
    assert undefined("so x = Q y", set()) == {"Q"}
    assert undefined("so x = Q y\nwith Q = 2", set()) == {"Q"}
    assert undefined("with Q = 2\nso x = Q y", set()) == set()
    assert undefined("A table Q (W, D), then Q[0]. A word.", {"W", "D"}) == set()


@each_chapter
def test_every_letter_is_defined_before_it_is_used(name):
    chapter, *others = documentation(source(name))
    assert not undefined(chapter, SHARED)
    known = SHARED | letters(chapter)
    for text in [*others, *documentation(exercises(name))]:
        assert not undefined(text, known), text


POINTING_AHEAD = re.compile(r"\b(next|later|following|coming) chapters?\b|\bas we (will|shall) see\b|\bmore on this\b")


@each_chapter
def test_prose_points_at_earlier_chapters_only(name):
    text = " ".join([*documentation(source(name)), *documentation(exercises(name))])
    numbers = {int(number) for number in re.findall(r"\bchapters? (\d+)", text)}
    assert not {number for number in numbers if number > int(name[2:4])}
    assert not POINTING_AHEAD.search(text)


def public(name):
    module = ast.parse(source(name))
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@each_chapter
def test_no_docstring_names_what_only_a_later_chapter_defines(name):
    order = list(CHAPTERS)
    at = order.index(name)
    known = set().union(*(public(earlier) for earlier in order[: at + 1]))
    ahead = set().union(*(public(later) for later in order[at + 1 :])) - known
    quoted = set(re.findall(r"`(\w+)`", " ".join(documentation(source(name)))))
    assert not quoted & ahead


@each_chapter
def test_exercises_leave_the_names_of_their_chapter_alone(name):
    """In the notebook both live in one place: a blank must not overwrite what the demonstration needs."""
    asked = {node.name for node in ast.parse(exercises(name)).body if isinstance(node, ast.FunctionDef)}
    assert not asked & set(vars(import_module(f"positronic_course.{name}")))


@each_chapter
def test_exercises_import_no_later_chapter(name):
    mentioned = {int(number) for number in re.findall(r"\bch(\d\d)_", exercises(name))}
    assert not {number for number in mentioned if number > int(name[2:4])}
