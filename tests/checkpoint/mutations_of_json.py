"""Ways to harm a JSON value: a place of it becomes another value, often of its type and out of all proportion."""

import copy
import random
from typing import Any

from mutations import at

WHOLE = [0, 1, -1, 2, 63, 64, 255, 2**16, 10**6, 2**31 - 1, 2**31, 10**9, 10**12, 2**63, 10**29, 10**400, -(10**29)]
OTHERS = [
    None,
    True,
    False,
    0.5,
    1e-310,
    1e13,
    1e300,
    "",
    "x",
    "\x1b[31m",
    "\x00",
    "9" * 400,
    [],
    {},
    [0],
    [[]],
    {"": 0},
]
TEXTS = [
    "kind",
    "attention",
    "swiglu",
    "mixture",
    "moe",
    "kuramoto",
    "fractal_phase",
    "engram",
    "ball",
    "../x",
    "ü" * 300,
]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to everything inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inside for place in ((*path, key), *places(part, (*path, key)))]


def nested(levels: int, draw: random.Random) -> Any:
    """Lists or objects inside one another."""
    value: Any = draw.choice([0, None, "x"])
    for _ in range(levels):
        value = [value] if draw.random() < 0.5 else {draw.choice(["kind", "heads", "core"]): value}
    return value


def other(value: Any, draw: random.Random) -> Any:
    """Another value, three times in four of the same type."""
    if draw.random() < 0.1:
        return nested(draw.choice([3, 60, 64, 65, 400]), draw)
    if draw.random() < 0.25:
        return draw.choice(OTHERS)
    if type(value) is bool:
        return not value
    if type(value) is int:
        return draw.choice([*WHOLE, value + 1, value - 1, value * 2, -value])
    if type(value) is float:
        return draw.choice([*WHOLE, 0.0, -value, value * 1e6, 1e-310, 1e300, 1.0])
    if type(value) is str:
        return draw.choice([*TEXTS, value[:-1], value[::-1], value + "0"])
    if type(value) is list:
        return draw.choice([value * 2, value[:-1], value * 40, value[::-1], []])
    return draw.choice(OTHERS)


def harmed(data: Any, draw: random.Random) -> Any:
    """A copy with one to three harms."""
    data = copy.deepcopy(data)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        path = draw.choice(places(data) or [()])
        if not path:
            return other(data, draw)
        inside, key = at(data, path[:-1]), path[-1]
        what = draw.random()
        if what < 0.75:
            inside[key] = other(inside[key], draw)
        elif what < 0.85:
            del inside[key]
        elif what < 0.95:
            inside[key] = copy.deepcopy(at(data, draw.choice(places(data))))
        elif isinstance(inside, dict):
            inside[draw.choice(["x", "n_layer", "", "kind"])] = inside.pop(key)
    return data
