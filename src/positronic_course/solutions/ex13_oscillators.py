"""Solutions: from attention to oscillators."""

import numpy as np


def mean_arrow(theta: np.ndarray) -> float:
    return float(np.hypot(np.cos(theta).mean(), np.sin(theta).mean()))


def pull(theta: np.ndarray, J: float) -> np.ndarray:
    X, Y = np.cos(theta).mean(), np.sin(theta).mean()
    return J * (Y * np.cos(theta) - X * np.sin(theta))


def step_gradient(theta: np.ndarray, J: float, dt: float, u: np.ndarray) -> np.ndarray:
    # velocity_j = J / n sum_k sin(theta_k - theta_j). d velocity_j / d theta_i is
    #   J / n cos(theta_i - theta_j) for every j, and for j = i also - J / n sum_k cos(theta_k - theta_i).
    cos, sin = np.cos(theta), np.sin(theta)
    from_others = cos * (u * cos).mean() + sin * (u * sin).mean()
    from_itself = u * (cos * cos.mean() + sin * sin.mean())
    return u + dt * J * (from_others - from_itself)
