"""Fewer bits: what is lost, and what is saved."""

import numpy as np

from positronic_course.ch14_hardware import cost, int8_linear, off_by, pack, quantise, ternarise, ternary_linear
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: weights from -1 to 1 rounded to steps of 1/7 (four bits) and to three values. Right: the same linear map in
    three formats: how far its result is off, and its weights' bytes, both as a share of the largest."""
    rng = np.random.default_rng(0)
    drawing = Drawing(2)
    w = np.linspace(-1, 1, 81)
    stairs = drawing.panel(0, "A weight, rounded", (-1, 1), (-1, 1), x="w", y="what is stored")
    trits, mean = ternarise(w)
    stairs.line(w, np.rint(w * 7) / 7, 0)
    stairs.line(w, trits * mean, 1)
    stairs.n_labels = 10
    for colour, name in enumerate(("four bits", "three values")):
        stairs.label(name, colour)
    x, w = rng.standard_normal((64, 96)), rng.standard_normal((96, 128))
    trits, mean = ternarise(w)
    found = {"int8": int8_linear(x, *quantise(w, axis=0)), "ternary": ternary_linear(x, pack(trits), mean, 128)}
    off = {"float32": 0.0} | {kind: off_by(y, x @ w) for kind, y in found.items()}
    stored = {kind: cost(kind, 1, 96, 128).weight_bytes for kind in off}
    panel = drawing.panel(1, "One linear map", (0, 6), (0, 1), y="share")
    values = [value for kind in off for value in (off[kind], stored[kind] / stored["float32"])]
    panel.bars(values, ["", "float32", "", "int8", "", "ternary"], [1, 0] * 3)
    panel.label("bytes", 0)
    panel.label("error", 1)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
