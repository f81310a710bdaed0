"""Oscillators that gather."""

import numpy as np

from positronic_course.ch13_oscillators import integrate, order
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """One ring of 64 oscillators, each with a speed of its own. Left: its order over time; without coupling it stays
    spread, with J = 2 it gathers. Right: the phases after that time, as places on a circle."""
    rng = np.random.default_rng(0)
    theta, omega = rng.uniform(-np.pi, np.pi, (1, 64)), rng.normal(scale=0.3, size=(1, 64))
    drawing = Drawing(2)
    orders = drawing.panel(0, "Order of the ring", (0, 16), (0, 1), x="time", y="length of the mean arrow")
    circle = drawing.panel(1, "Phases at the end", (-1.7, 1.7), (-1.2, 1.2), x="cos", y="sin")
    for colour, (J, radius) in enumerate(((0.0, 0.8), (0.5, 0.95), (2.0, 1.1))):
        phases, found = theta, [np.hypot(*order(theta))[0]]
        for _ in range(40):
            phases, _ = integrate(phases, omega, np.array([[J]]), np.zeros(1), steps=4, dt=0.1)
            found.append(np.hypot(*order(phases))[0])
        orders.line(0.4 * np.arange(41), found, colour, f"J = {J:g}")
        circle.points(radius * np.cos(phases[0, ::2]), radius * np.sin(phases[0, ::2]), colour, f"J = {J:g}")
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
