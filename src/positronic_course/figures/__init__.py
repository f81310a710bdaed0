"""The figures of the chapters, each drawn by its own file from the chapter's own functions.

    python -m positronic_course.figures.fig05_attention > attention.svg

`figure()` of such a file gives the drawing, and its docstring says what can be seen in it. The pages hold what
`python -m positronic_course.notebooks` last drew.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

from positronic_course.ch15_classification import small_model
from positronic_course.drawing import Drawing

__all__ = ["caption", "draw", "trained"]


def draw(chapter: str) -> Drawing:
    """The figure of a chapter, as in draw("ch05_attention")."""
    return _file(chapter).figure()


def caption(chapter: str) -> str:
    """What can be seen in it, in one paragraph."""
    return " ".join((_file(chapter).figure.__doc__ or "").split())


def _file(chapter: str) -> ModuleType:
    return import_module(f"positronic_course.figures.{chapter.replace('ch', 'fig', 1)}")


trained = cache(small_model)
"""The small model of chapter 15 that has read the stories: a few seconds, once."""
