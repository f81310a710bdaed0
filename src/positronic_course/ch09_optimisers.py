"""Adam, AdamW and the learning rate.

A gradient says which way is up; an optimiser says how far to go down. Parameters and gradients are flat dicts of arrays
with the same names (chapter 3), and a step moves the parameters in place.

From descent to Adam
--------------------
Plain descent, w <- w - rate * g, has one rate for all weights; but the row of a rare letter in the embedding receives a
small gradient now and then, and the gain of a norm a large one always. Adam measures each weight by itself, with two
moving averages of what its gradient has been:

    mean   <- beta1 mean + (1 - beta1) g         where the gradient points     beta1 = 0.9:  about the last 10 steps
    square <- beta2 square + (1 - beta2) g^2     how large it is               beta2 = 0.99: about the last 100 steps

*By numbers*: three gradients of 2. mean is 0.2, 0.38, 0.542: too small, by the factors 0.1, 0.19, 0.271, which are 1 -
0.9, 1 - 0.9^2, 1 - 0.9^3. square is 0.04 after the first, and 0.04 / (1 - 0.99) = 4. Mended, the first step is rate *
2 / sqrt(4): exactly the rate.

Both begin at 0 and are too small at first. How much? Unroll the first after n steps, when all gradients were g:

    mean = (1 - beta1) (g + beta1 g + ... + beta1^(n-1) g) = (1 - beta1^n) g

so dividing by 1 - beta1^n mends it exactly, and gradients that vary about g are mended on average; the same holds for
square with beta2. The step is

    w <- w - rate * mean^ / (sqrt(square^) + epsilon)
    mean^ = mean / (1 - beta1^n)      square^ = square / (1 - beta2^n)

Multiply every gradient by 1000: mean^ and sqrt(square^) both grow by 1000 and the step stays the same. A weight moves
by about `rate` a step at most, whatever the scale of the loss; epsilon, 1e-8, only matters where the gradient is nearly
as small.

AdamW
-----
Weights should not grow without need: pull each towards zero. Adding decay * w to the gradient would send the pull
through the division by sqrt(square^) too, and weights with large gradients would hardly feel it. AdamW pulls beside
Adam:

    w <- w - rate * decay * w                                     matrices only: a gain rests at 1, not at 0

The rate
--------
*By numbers*: peak 1, 10 steps of warming up, 100 in all, floor 0.1. At step 4 the rate is 5 / 10 = 0.5. At step 55 half
of the way down is gone: 0.1 + 0.9 / 2 = 0.55.

At the start both averages are of a few gradients, and the step is mostly noise: warm up from zero. At the end the
noise of small batches keeps the weights trembling around the best ones: cool down. Of n steps, counted from 0:

    rate = peak (step + 1) / warm_up                               while step < warm_up
    rate = peak (floor + (1 - floor) (1 + cos(pi through)) / 2)    through = (step - warm_up) / (n - warm_up), 0 to 1

Clipping
--------
*By numbers*: gradients of 3 and 4 have the common length 5. With a limit of 1 they become 0.6 and 0.8.

One strange batch can have a gradient many times longer than the others, and square takes beta2's time to notice.
Measure the length of all gradients together, sqrt(sum of all squares); if it is above the limit, shorten all of them
alike, which keeps the direction.

Hardware: float32 has 24 bits of fraction and reaches down to about 1e-38; the square of a gradient of 1e-20 is already
below that, and the root of square loses what mean still has. bfloat16 has the same range with 8 bits: a weight of 1
can only become 0.996 or stay, so that an update of 0.001 vanishes. This is why training in low precision keeps the
weights and their averages in float32.
"""

import math

import numpy as np

from positronic_course.ch03_linear_and_norms import Parameters


class Adam:
    """Two averages of the gradient for each weight, and how many steps they have seen.

    mean and square are single vectors over all parameters, one after the other: a step is then a few long operations,
    however many small arrays there are. Two more vectors are kept to be written anew, so that no step has to ask for
    memory.
    """

    def __init__(self, parameters: Parameters, beta1: float = 0.9, beta2: float = 0.99, epsilon: float = 1e-8):
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.steps = 0
        self.mean = np.concatenate([np.zeros_like(w).ravel() for w in parameters.values()])
        self.square = np.zeros_like(self.mean)
        self.g, self.move = np.empty_like(self.mean), np.empty_like(self.mean)

    def step(self, parameters: Parameters, gradients: Parameters, rate: float) -> None:
        """Move the parameters, in place."""
        g, move = self.g, self.move
        np.concatenate([gradients[name].ravel() for name in parameters], out=g)
        self.steps += 1
        np.subtract(g, self.mean, out=move)
        move *= 1 - self.beta1
        self.mean += move
        g *= g
        g -= self.square
        g *= 1 - self.beta2
        self.square += g
        # mean^ / (sqrt(square^) + epsilon), with both corrections taken out of the long vectors and into two numbers.
        c1, c2 = 1 - self.beta1**self.steps, math.sqrt(1 - self.beta2**self.steps)
        np.sqrt(self.square, out=move)
        move += self.epsilon * c2
        np.divide(self.mean, move, out=move)
        move *= rate * c2 / c1
        at = 0
        for w in parameters.values():
            w -= move[at : at + w.size].reshape(w.shape)
            at += w.size

    def to_arrays(self) -> Parameters:
        """What a checkpoint needs to go on exactly here."""
        return {"mean": self.mean, "square": self.square, "steps": np.array(self.steps)}

    def from_arrays(self, arrays: Parameters) -> None:
        """Go on from what `to_arrays` gave."""
        self.mean, self.square = arrays["mean"].copy(), arrays["square"].copy()
        self.steps = int(arrays["steps"])


class AdamW:
    """Adam, and beside it a pull of every matrix towards zero."""

    def __init__(self, parameters: Parameters, decay: float = 0.1, beta2: float = 0.99):
        self.adam = Adam(parameters, beta2=beta2)
        self.decay = decay

    def step(self, parameters: Parameters, gradients: Parameters, rate: float) -> None:
        """Move the parameters, in place."""
        for w in parameters.values():
            if w.ndim == 2:
                w *= 1 - rate * self.decay
        self.adam.step(parameters, gradients, rate)

    def to_arrays(self) -> Parameters:
        """What a checkpoint needs to go on exactly here."""
        return self.adam.to_arrays()

    def from_arrays(self, arrays: Parameters) -> None:
        """Go on from what `to_arrays` gave."""
        self.adam.from_arrays(arrays)


def warm_up_cosine(step: int, steps: int, peak: float, warm_up: int, floor: float = 0.1) -> float:
    """The rate of one step, counted from 0: up in a straight line, down along half a cosine to floor * peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    through = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * through)) / 2)


def clip(gradients: Parameters, limit: float) -> float:
    """Shorten all gradients alike, in place, to the limit of their common length; returns the length they had."""
    length = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))
    if length > limit:
        for g in gradients.values():
            g *= limit / length
    return length


if __name__ == "__main__":
    # A valley a thousand times steeper across than along: L = (1000 x^2 + y^2) / 2, from x = y = 1.
    steep = np.array([1000.0, 1.0])
    for name in ("descent", "Adam"):
        place = {"xy": np.ones(2)}
        adam = Adam(place)
        for step in range(200):
            slope = {"xy": steep * place["xy"]}
            if name == "descent":
                place["xy"] -= 1e-3 * slope["xy"]  # above twice this rate x would fly away
            else:
                adam.step(place, slope, warm_up_cosine(step, 200, 0.05, 10, 0.0))
        print(f"{name:8} after 200 steps: x = {place['xy'][0]:.4f}, y = {place['xy'][1]:.4f}")

    # The rate over a run of 100 steps.
    for step in (0, 4, 9, 10, 32, 55, 77, 99):
        rate = warm_up_cosine(step, 100, 1.0, 10)
        print(f"step {step:3}  rate {rate:.3f}  {'#' * round(40 * rate)}")

    # Few bits: a thousand updates of 0.0001 should bring 1 to 0.9; float16 has nothing between 0.9995 and 1.
    for dtype in (np.float64, np.float32, np.float16):
        w = np.ones(1, dtype)
        for _ in range(1000):
            w -= dtype(0.0001)
        print(f"{np.dtype(dtype).name}: {w[0]:.4f}")
