"""Exercises: from attention to oscillators. One ring throughout, phases theta (n,), without frequencies and lag.

python -m positronic_course.exercises.ex13_oscillators
"""

import numpy as np

from positronic_course.exercises import Answer, expect, run, slope


def mean_arrow(theta: np.ndarray) -> float:
    """The length of the mean arrow: 1 when all stand together, 0 when they are spread evenly. (easy)"""
    return ...


def check_mean_arrow(answer: Answer) -> None:
    expect("three phases 0.4", answer(np.full(3, 0.4)), 1)
    expect("0 and pi", answer(np.array([0, np.pi])), 0)
    expect("0 and a quarter turn", answer(np.array([0, np.pi / 2])), 0.5**0.5)


def pull(theta: np.ndarray, J: float) -> np.ndarray:
    """The velocity (n,) that the ring gives its own oscillators, through the means, not pair by pair."""
    return ...


def check_pull(answer: Answer) -> None:
    theta, J = np.random.default_rng(0).normal(size=7) * 2, 1.3
    pairs = [J * sum(np.sin(other - own) for other in theta) / 7 for own in theta]
    expect("the velocities", answer(theta, J), pairs)
    expect("their sum: what one gains another loses", answer(theta, J).sum(), 0)


def step_gradient(theta: np.ndarray, J: float, dt: float, dtheta: np.ndarray) -> np.ndarray:
    """dtheta before one Euler step theta <- theta + dt pull, from dtheta after it. (a derivation)

    Begin with the pairs: theta_i is part of its own velocity and of everybody else's.
    """
    return ...


def check_step_gradient(answer: Answer) -> None:
    rng = np.random.default_rng(0)
    theta, dtheta = rng.normal(size=6) * 2, rng.normal(size=6)

    def after(theta, J, dt):
        return theta + dt * J * np.sin(theta[None, :] - theta[:, None]).mean(1)

    for J, dt in ((1.0, 0.5), (-2.0, 0.1)):
        measured = slope(lambda theta, J=J, dt=dt: (after(theta, J, dt) * dtheta).sum(), theta)
        expect(f"dtheta with J = {J} and dt = {dt}", answer(theta, J, dt, dtheta), measured)


if __name__ == "__main__":
    run(globals())
