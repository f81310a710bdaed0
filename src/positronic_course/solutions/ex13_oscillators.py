"""Solutions: from attention to oscillators."""

import numpy as np


def order(theta: np.ndarray) -> float:
    return float(np.hypot(np.cos(theta).mean(), np.sin(theta).mean()))


def pull(theta: np.ndarray, K: float) -> np.ndarray:
    C, S = np.cos(theta).mean(), np.sin(theta).mean()
    return K * (S * np.cos(theta) - C * np.sin(theta))


def step_gradient(theta: np.ndarray, K: float, dt: float, u: np.ndarray) -> np.ndarray:
    # velocity_j = K / n sum_k sin(theta_k - theta_j). d velocity_j / d theta_i is
    #   K / n cos(theta_i - theta_j) for every j, and for j = i also - K / n sum_k cos(theta_k - theta_i).
    cos, sin = np.cos(theta), np.sin(theta)
    from_others = cos * (u * cos).mean() + sin * (u * sin).mean()
    from_itself = u * (cos * cos.mean() + sin * sin.mean())
    return u + dt * K * (from_others - from_itself)
