"""Activations.

Two linear maps in a row are one linear map: (x a) b = x (a b). Something that is not linear has to stand between
them. An activation is one function of one number, applied to each number by itself.

    relu(x)  = max(x, 0)
    gelu(x)  = x Phi(x)            Phi(x): the chance that a normally distributed number is below x
    swish(x) = x sigmoid(x)        sigmoid(x) = 1 / (1 + exp(-x))

ReLU is a switch. GELU and swish are a switch that is turned smoothly: x times a number between 0 and 1.

*By numbers*, at x = 1: relu is 1. swish is 1 / (1 + exp(-1)) = 0.731, and its slope 0.731 + 0.731 * 0.269 = 0.928. gelu
is 0.841, with a slope of 1.083: steeper than a straight line. At x = -1 swish is -0.269 and gelu -0.159, relu 0.

Backward. Each y depends on one x only, so dx = dy f'(x), number by number:

    relu'(x)  = 1 where x > 0, else 0
    swish'(x) = c + x c (1 - c) = c + y (1 - c)         with c = sigmoid(x), whose derivative is c (1 - c)

GELU, the tanh form: Phi has no finite formula in the usual functions, so Phi(x) is replaced by

    a = sqrt(2/pi) (x + 0.044715 x^3)        Phi(x) ~ (1 + tanh a) / 2        y = x (1 + tanh a) / 2

which misses the true x Phi(x) by less than 0.0005 everywhere (the demonstration measures it). tanh' = 1 - tanh^2,
hence

    gelu'(x) = (1 + tanh a) / 2 + x (1 - tanh(a)^2) / 2 * sqrt(2/pi) (1 + 3 * 0.044715 x^2)

This is the exact gradient of the tanh form: what is trained is always the function that was computed.

Hardware: exp(x) leaves float32 at x = 88.73 and float16 at 11.09. The sigmoid as it is written above needs exp(-x),
which becomes infinite for x below -88.73: IEEE 754 still gives the right 1 / (1 + inf) = 0, and raises its overflow
flag. With tanh, whose values lie between -1 and 1, nothing can overflow: sigmoid(x) = (1 + tanh(x / 2)) / 2 is the
same function. The price is paid far below zero: tanh(-10) and -1 are one number in float32, so sigmoid(-20) comes out
as 0 instead of 2 10^-9. ReLU needs no exp, only the sign bit: that is its charm in hardware, and where half its
outputs are exact zeros, half the products that follow need not be made.
"""

from collections.abc import Callable

import numpy as np

ROOT_2_OVER_PI = (2 / np.pi) ** 0.5


def relu(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """x of any shape -> y of the same, as everywhere in this chapter."""
    y = np.maximum(x, 0)
    return y, (y,)


def relu_backward(dy: np.ndarray, saved: tuple) -> np.ndarray:
    (y,) = saved
    return dy * (y > 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """By way of tanh. Working in place saves two arrays as large as x."""
    c = np.tanh(x * 0.5)
    c += 1
    c *= 0.5
    return c


def swish(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    c = sigmoid(x)
    y = x * c
    return y, (c, y)


def swish_backward(dy: np.ndarray, saved: tuple) -> np.ndarray:
    c, y = saved
    slope = 1 - c
    slope *= y
    slope += c
    slope *= dy
    return slope


def gelu(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """The tanh form."""
    tanh = np.tanh(ROOT_2_OVER_PI * (x + 0.044715 * x * x * x))
    return x * (1 + tanh) * 0.5, (x, tanh)


def gelu_backward(dy: np.ndarray, saved: tuple) -> np.ndarray:
    x, tanh = saved
    inner = ROOT_2_OVER_PI * (1 + 3 * 0.044715 * x * x)
    return dy * 0.5 * (1 + tanh + x * (1 - tanh * tanh) * inner)


ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "relu": (relu, relu_backward),
    "gelu": (gelu, gelu_backward),
    "swish": (swish, swish_backward),
}


if __name__ == "__main__":
    from math import erf

    # The three, and their slopes.
    x = np.array([-4.0, -2.0, -1.0, -0.1, 0.0, 0.1, 1.0, 2.0, 4.0])
    print("x      ", "".join(f"{value:8.2f}" for value in x))
    for name, (f, f_backward) in ACTIVATIONS.items():
        y, saved = f(x)
        print(f"{name:7}", "".join(f"{value:8.4f}" for value in y))
        print("  slope", "".join(f"{value:8.4f}" for value in f_backward(np.ones_like(x), saved)))

    # How far is the tanh form from the true GELU?
    x = np.linspace(-8, 8, 100_001)
    true = x * (1 + np.array([erf(value / 2**0.5) for value in x])) / 2
    error = np.abs(gelu(x)[0] - true)
    print(f"tanh form against erf: largest error {error.max():.6f}, at x = {x[error.argmax()]:.2f}")

    # Far below zero swish goes to 0, but not from above: it dips, and its slope is negative there.
    print(f"lowest value of swish: {swish(x)[0].min():.4f} at x = {x[swish(x)[0].argmin()]:.3f}")
