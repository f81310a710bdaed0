"""Pictures in SVG, in plain text: panels with axes, lines, points, bars and shaded squares, and nothing else.

A picture is a function of its numbers: the same numbers give the same bytes, to a tenth of a pixel, so that a figure
can be committed beside the code that made it and compared with it.
"""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

__all__ = ["COLOURS", "Drawing", "Panel"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#777777")
"""Told apart by those who do not see all colours, too."""
WIDTH, HEIGHT = 320, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 28, 38
"""Of a panel, and the room around its plot: pixels."""


class Drawing:
    """Panels side by side; `str` of it is an SVG file, and notebooks show it."""

    def __init__(self, n_panels: int = 1, width: int = WIDTH, height: int = HEIGHT):
        self.width, self.height = n_panels * width, height
        self.panel_width = width
        self.parts: list[str] = []

    def panel(
        self, number: int, title: str, across: Sequence[float], up: Sequence[float], x: str = "", y: str = ""
    ) -> "Panel":
        """Panel `number`, counted from 0: across[0] stands left, up[0] below; x and y name the axes."""
        panel = Panel(self, number * self.panel_width, across, up)
        panel.axes(title, x, y)
        return panel

    def text(self, x: float, y: float, words: str, anchor: str = "middle", size: int = 11, turn: int = 0) -> None:
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        self.parts.append(f"<text {place}{turned}>{escape(words)}</text>")

    def path(self, points: Iterable[tuple[float, float]], colour: str, dashed: bool = False) -> None:
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>')

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self.parts.append(f'<rect {size} fill="{colour}"/>')

    def __str__(self) -> str:
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" fill="#222">'
        white = f'<rect width="{self.width}" height="{self.height}" fill="#fff"/>'
        return "\n".join([head, white, *self.parts, "</svg>"]) + "\n"

    def __repr__(self) -> str:
        return "a drawing"

    def _repr_svg_(self) -> str:
        return str(self)


class Panel:
    """One plot: what is drawn is given in its data's units."""

    def __init__(self, drawing: Drawing, left: float, across: Sequence[float], up: Sequence[float]):
        self.drawing, self.x, self.y = drawing, across, up
        self.left, self.right = left + LEFT, left + drawing.panel_width - RIGHT
        self.top, self.bottom = TOP, drawing.height - BOTTOM
        self.n_labels = 0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a place; what lies outside the plot is moved to its edge."""
        across = np.clip((x - self.x[0]) / (self.x[1] - self.x[0]), 0, 1)
        up = np.clip((y - self.y[0]) / (self.y[1] - self.y[0]), 0, 1)
        return (
            self.left + float(across) * (self.right - self.left),
            self.bottom - float(up) * (self.bottom - self.top),
        )

    def axes(self, title: str, x: str, y: str) -> None:
        """Frame, title, and the names of both axes; an axis without a name has no numbers."""
        corners = [(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)]
        self.drawing.path(corners, "#999")
        self.drawing.text((self.left + self.right) / 2, TOP - 12, title, size=12)
        if x:
            self.drawing.text((self.left + self.right) / 2, self.bottom + 31, x)
            for value in round_numbers(min(self.x), max(self.x)):
                self.drawing.text(self.at(value, self.y[0])[0], self.bottom + 15, f"{value:g}", size=10)
        if y:
            self.drawing.text(self.left - 34, (self.top + self.bottom) / 2, y, turn=-90)
            for value in round_numbers(min(self.y), max(self.y)):
                self.drawing.text(self.left - 4, self.at(self.x[0], value)[1] + 3, f"{value:g}", "end", 10)

    def line(
        self, x: Iterable[float], y: Iterable[float], colour: int = 0, label: str = "", dashed: bool = False
    ) -> None:
        """A line through the places; its label stands in the corner at the top right, in its colour."""
        self.drawing.path((self.at(a, b) for a, b in zip(x, y, strict=True)), COLOURS[colour], dashed)
        if label:
            self.label(label, colour)

    def points(self, x: Iterable[float], y: Iterable[float], colour: int = 0, label: str = "") -> None:
        for a, b in zip(x, y, strict=True):
            across, down = self.at(a, b)
            self.drawing.parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{COLOURS[colour]}"/>')
        if label:
            self.label(label, colour)

    def bars(self, values: Sequence[float], names: Sequence[str], colours: Sequence[int] = ()) -> None:
        """A bar up or down from 0 for each value, its name below the plot; x of the panel counts them from 0."""
        for number, (value, name) in enumerate(zip(values, names, strict=True)):
            (x0, y0), (x1, y1) = self.at(number + 0.15, max(value, 0)), self.at(number + 0.85, min(value, 0))
            colour = COLOURS[colours[number] if colours else 0]
            self.drawing.rectangle(x0, y0, x1 - x0, max(y1 - y0, 0.5), colour)
            self.drawing.text((x0 + x1) / 2, self.bottom + 13, name, size=10)

    def squares(self, shades: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
        """A matrix, its first row at the top: 0 is white, 1 the darkest."""
        high, wide = (self.bottom - self.top) / len(shades), (self.right - self.left) / shades.shape[1]
        for (i, j), shade in np.ndenumerate(shades):
            if shade > 0.004:
                level = round(255 * (1 - float(min(shade, 1))))
                colour = f"#{level:02x}{(level + 114) * 255 // 369:02x}{(level + 178) * 255 // 433:02x}"
                self.drawing.rectangle(self.left + j * wide, self.top + i * high, wide + 0.2, high + 0.2, colour)
        for i, name in enumerate(rows):
            self.drawing.text(self.left - 4, self.top + (i + 0.5) * high + 3, name, "end", 9)
        for j, name in enumerate(columns):
            self.drawing.text(self.left + (j + 0.5) * wide, self.bottom + 12, name, size=9)

    def label(self, words: str, colour: int) -> None:
        self.drawing.parts.append(f'<g fill="{COLOURS[colour]}">')
        self.drawing.text(self.right - 2, self.top + 10 + 14 * self.n_labels, words, "end", 10)
        self.drawing.parts.append("</g>")
        self.n_labels += 1


def round_numbers(low: float, high: float) -> list[float]:
    """Three to six round numbers from low to high, for an axis."""
    unit = 10.0 ** np.floor(np.log10(high - low))
    step = next(step for step in (unit * size for size in (0.2, 0.5, 1, 2)) if (high - low) / step <= 5.01)
    return [
        round(float(n * step), 10) + 0.0 for n in range(int(np.ceil(low / step - 1e-9)), int(high / step + 1e-9) + 1)
    ]
