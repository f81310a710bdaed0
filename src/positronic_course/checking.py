"""Is a gradient right? Move one number a little, both ways, and see how far the loss moves.

    dL/dx ~ (L(x + step) - L(x - step)) / (2 step)

The error of this central difference is step^2 L'''/6 from the step, and about 1e-16 L / step from the rounding of L
in float64: near step = 1e-5 both are around 1e-10. In float32, where rounding is 6e-8, nothing can be checked this way:
gradients are derived for every dtype and checked in float64.

It costs two forward passes for every number, so it is for small arrays. Backward finds them all for the price of two.
"""

from collections.abc import Callable, Mapping

import numpy as np


def numeric_gradient(loss: Callable[[], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """dL/dx by central differences. x is moved in place, so `loss` must read it, and is put back."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        before = x[at]
        x[at] = before + step
        above = loss()
        x[at] = before - step
        gradient[at] = (above - loss()) / (2 * step)
        x[at] = before
    return gradient


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, over the largest of both arrays: 0 when both are 0 everywhere."""
    if found.shape != expected.shape:
        raise ValueError(
            f"The gradient has the shape {found.shape}; its array has {expected.shape}. Give it that shape."
        )
    largest = max(np.abs(found).max(initial=0), np.abs(expected).max(initial=0))
    return float(np.abs(found - expected).max(initial=0) / largest) if largest else 0.0


def named(gradients: object, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a backward returns, by name: arrays in the order of the inputs, and dicts that know their names."""
    order = iter(inputs)
    result: dict[str, np.ndarray] = {}
    for gradient in gradients if isinstance(gradients, tuple) else (gradients,):
        result |= gradient if isinstance(gradient, dict) else {next(order): gradient}
    return result


def check_gradients(
    f: Callable[..., tuple], f_backward: Callable, inputs: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, float]:
    """Relative error of each input's gradient: f(**inputs) -> y, saved; f_backward(dy, saved) -> gradients, in order.

    The loss is sum(y dy) with a fixed random dy, which then is dL/dy: no error can hide in a symmetry.
    """
    y, saved = f(**inputs)
    dy = np.random.default_rng(seed).normal(size=y.shape)
    gradients = named(f_backward(dy, saved), inputs)
    if missing := set(inputs) - set(gradients):
        raise ValueError(f"There is no gradient for {', '.join(sorted(missing))}; return one for each input.")
    return {
        name: relative_error(gradients[name], numeric_gradient(lambda: float((f(**inputs)[0] * dy).sum()), x))
        for name, x in inputs.items()
    }
