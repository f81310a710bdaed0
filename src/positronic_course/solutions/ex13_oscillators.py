"""Solutions: from attention to oscillators."""

import numpy as np


def mean_arrow(theta: np.ndarray) -> float:
    return float(np.hypot(np.cos(theta).mean(), np.sin(theta).mean()))


def pull(theta: np.ndarray, J: float) -> np.ndarray:
    X, Y = np.cos(theta).mean(), np.sin(theta).mean()
    return J * (Y * np.cos(theta) - X * np.sin(theta))


def step_gradient(theta: np.ndarray, J: float, dt: float, dtheta: np.ndarray) -> np.ndarray:
    # velocity_j = J / n sum_i sin(theta_i - theta_j). It moves with theta_i by
    #   J / n cos(theta_i - theta_j) for every j, and for j = i also - J / n sum_j cos(theta_j - theta_i).
    cos, sin = np.cos(theta), np.sin(theta)
    from_others = cos * (dtheta * cos).mean() + sin * (dtheta * sin).mean()
    from_itself = dtheta * (cos * cos.mean() + sin * sin.mean())
    return dtheta + dt * J * (from_others - from_itself)
