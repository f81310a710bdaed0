"""Down a narrow valley, and the rate of a run."""

import numpy as np

from positronic_course.ch09_optimisers import Adam, warm_up_cosine
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: from (1, 1) down a valley a thousand times steeper across (x) than along (y). Plain descent falls to the
    valley's floor at once and then creeps; Adam walks both ways at one pace. Right: the rate of a run of 100 steps."""
    drawing = Drawing(2)
    valley = drawing.panel(0, "L = (1000 x^2 + y^2) / 2", (-0.3, 1.1), (-0.3, 1.1), x="x", y="y")
    for colour, name in enumerate(("descent", "Adam")):
        place = {"xy": np.ones(2)}
        adam, way = Adam(place), [place["xy"].copy()]
        for step in range(200):
            slope = {"xy": np.array([1000.0, 1.0]) * place["xy"]}
            if name == "descent":
                place["xy"] -= 1e-3 * slope["xy"]
            else:
                adam.step(place, slope, warm_up_cosine(step, 200, 0.05, 10, 0.0))
            way.append(place["xy"].copy())
        valley.line(*np.array(way)[::4].T, colour, f"{name}, 200 steps")
        valley.points(*np.array(way)[-1:].T, colour)
    rate = drawing.panel(1, "Warm up, then half a cosine", (0, 100), (0, 1), x="step", y="rate / peak")
    rate.line(range(100), [warm_up_cosine(step, 100, 1.0, 10) for step in range(100)])
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
