"""Exercises that check themselves.

One file a chapter. In each function put your own lines in the place of `return ...`, then run the file:

    python -m positronic_course.exercises.ex05_attention

For every exercise it says `ok`, `not yet`, or what is wrong. A check never holds the answer: it compares with
something else that must be true, such as a slope measured by finite differences, a number worked by hand, or a sum
that must be 1.
"""

import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np

from positronic_course.checking import numeric_gradient

__all__ = ["Answer", "NotYet", "Wrong", "expect", "questions", "run", "slope", "true", "verdict"]

Answer = Callable[..., Any]
"""What a learner wrote, as a check receives it."""
Values = np.ndarray | np.generic | float | int | bool | list | tuple


class NotYet(Exception):  # noqa: N818  (no error: where a learner stands)
    """The place of the answer still holds `...`."""


class Wrong(Exception):  # noqa: N818
    """The answer is not right; the sentence says what about it."""


def expect(what: str, got: Values, truth: Values, tolerance: float = 1e-6) -> None:
    """Numbers of one shape that agree within the tolerance, relative to the largest of them; what: their name."""
    a, b = np.asarray(got, dtype=float), np.asarray(truth, dtype=float)
    if a.shape != b.shape:
        raise Wrong(f"{what} has the shape {a.shape}; it should be {b.shape}.")
    if not np.isfinite(a).all():
        raise Wrong(f"{what} is not finite: {_shown(a)}. Look for an overflow, a division by 0 or a logarithm of 0.")
    scale = np.abs(b).max(initial=0) or 1.0
    if (np.abs(a - b) <= tolerance * scale).all():
        return
    worst = np.unravel_index(np.abs(a - b).argmax(), a.shape)
    place = f"{what}[{', '.join(map(str, worst))}]" if worst else what
    raise Wrong(f"{place} is {a[worst]:.6g}; it should be {b[worst]:.6g}{_hint(a, b, tolerance * scale)}.")


def _hint(a: np.ndarray, b: np.ndarray, small: float) -> str:
    """The usual slips: a sign, a factor."""
    if (np.abs(a + b) <= small).all():
        return ", the opposite sign"
    factor = np.vdot(a, b) / (np.vdot(b, b) or 1.0)
    if np.abs(factor) > 1e-9 and (np.abs(a - factor * b) <= 10 * small).all() and b.size > 1:
        return (
            f"; all of it is {factor:.4g} times too large"
            if factor > 1
            else f"; all of it is {factor:.4g} of the truth"
        )
    return ""


def _shown(a: np.ndarray) -> str:
    return np.array2string(a, threshold=6, precision=4)


def true(claim: bool | np.bool_, otherwise: str) -> None:
    """A claim about the answer; otherwise: the sentence that tells what was found."""
    if not claim:
        raise Wrong(otherwise)


def slope(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """df/dx, measured: each number of x is moved a little up and down. f takes an array and returns one number."""
    x = np.array(x, dtype=float)
    return numeric_gradient(lambda: f(x), x, step)


def questions(names: Mapping[str, Any]) -> dict[str, tuple[Answer, Callable[[Answer], None]]]:
    """Name -> (the function to write, its check), in the order of the file; names: a module's globals()."""
    checks = {name.removeprefix("check_"): check for name, check in names.items() if name.startswith("check_")}
    return {name: (names[name], check) for name, check in checks.items()}


def verdict(check: Callable[[Answer], None], answer: Answer) -> str:
    """`ok`, `not yet`, or what is wrong with the answer."""

    @wraps(answer)
    def answered(*given: Any, **named: Any) -> Any:
        result = answer(*given, **named)
        parts = result if isinstance(result, tuple) else (result,)
        if any(part is ... or part is None for part in parts):
            raise NotYet
        return result

    try:
        check(answered)
    except NotYet:
        return "not yet"
    except Wrong as wrong:
        return str(wrong)
    except Exception as error:  # whatever a learner's line may raise: name the line
        frames = traceback.extract_tb(error.__traceback__)
        line = [*frames[:1], *(frame for frame in frames if frame.filename == answer.__code__.co_filename)][-1]
        return f"{type(error).__name__}: {error} ({line.name}, line {line.lineno}: {line.line})"
    return "ok"


def run(names: Mapping[str, Any]) -> None:
    """Print the verdict on each exercise of a file; names: its globals()."""
    for name, (answer, check) in questions(names).items():
        print(f"{name}: {verdict(check, answer)}")
