"""Embeddings and positions.

A token id is a name, not a quantity: token 7 is not "more" than token 6. So the first thing a model does is to look
the id up in a table E (W, D), one row of D numbers for each piece of the vocabulary, and to learn that table:

    x[row, t] = E[ids[row, t]]              ids (B, T) -> x (B, T, D)

Letters: B rows of a batch, T tokens in a row, D width of a vector, W size of the vocabulary, L the loss: one number
that says how badly the model did. dx means dL/dx everywhere: how L moves when each number in x is moved a little. It
has the shape of x. All of learning is to find dL/d(parameter) for every parameter, and each operation of this course
comes as a pair: `f` goes forward and returns its result and `saved`, what the way back will need; `f_backward` takes
dL/d(result) and `saved`, and returns dL/d(input), one for each input.

Backward of the lookup
----------------------
*By numbers*: the ids 2, 0, 2 with dx = (1, 0), (0, 1), (3, 5). Row 2 was read twice: dE[2] = (1, 0) + (3, 5) = (4, 5).
Row 0 gets (0, 1), and every other row 0.

Row j of E is copied to every place where the id is j. Moving it moves all those copies, so their gradients add up:

    dE[j] = sum of dx[row, t] over all (row, t) with ids[row, t] = j

Order
-----
The rows say which tokens there are, not which of them came first. Three ways to add that:

*Learned*: a second table, (n, D), one row for each of n places: x[row, t] + table[t]. Beyond row n - 1 nothing is
known.

*Sinusoidal*: no table to learn. Columns i and i + D/2 are a hand of a clock, turning once in 2 pi base^(2i/D) tokens.
The base is a large number, usually 10,000: the first hand turns once in 6 tokens, the last once in tens of thousands.

    table[t, i] = sin(t base^(-2i/D))    table[t, i + D/2] = cos(t base^(-2i/D))       i = 0 .. D/2 - 1

*Rotary*: nothing is added. A vector of width K that is to be compared with another one is cut into pairs, and each
pair is turned by an angle that grows with the position t:

    a, b = x[i], x[i + K/2]    (a, b) -> (a cos theta - b sin theta, b cos theta + a sin theta)
    theta = t base^(-2i/K)

*By numbers*: K = 2, one pair, theta = t. The vector (1, 0) at place 3 becomes (cos 3, sin 3) = (-0.990, 0.141), at
place 1 it becomes (0.540, 0.841). Their dot product is -0.535 + 0.119 = -0.416, which is cos 2: they are two tokens
apart. At places 12 and 10 it is -0.416 again.

Turn one vector for position s and another for position t: their dot product only sees the difference s - t, because a
rotation keeps dot products and two rotations add their angles. What the model learns about "three tokens back" then
holds everywhere.

Backward of a rotation y = w x, w its matrix: y_i moves with x_j by w[i, j], so dx_j = sum_i dy_i w[i, j]. That is the
transpose, dx = w^T dy, and the transpose of a rotation is the rotation back. So backward is `rotate` with -sin, and
`rotate` has nothing to save but the angles.

Hardware: the angle is a product of a position and a frequency. A float32 has 24 bits of precision, so near 10,000
radians neighbouring values are 0.001 apart, and bfloat16 with its 8 bits cannot even count beyond 256. So the tables
are computed in float64, once, and rounded once; everything that is done a token at a time keeps the dtype of its
input. The sum in dE has no defined order in a parallel machine, and floating point addition is not associative: that
is why two runs on a GPU can differ in the last bits. Here equal ids are sorted side by side first and added in that
order.
"""

import numpy as np
from numpy.typing import DTypeLike

from positronic_course import CourseError


def embed(ids: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, tuple]:
    """ids (B, T), table (W, D) -> x (B, T, D). Ids are checked: NumPy would read a negative one from the end."""
    if ids.size and not 0 <= ids.min() <= ids.max() < len(table):
        raise CourseError(
            f"The ids run from {ids.min()} to {ids.max()}, and the table has rows 0 to {len(table) - 1}. "
            "Encode the text with the tokenizer that the model was trained with."
        )
    return table[ids], (ids, len(table))


def embed_backward(dx: np.ndarray, saved: tuple) -> np.ndarray:
    """dtable (W, D). Sorting brings equal ids together; `reduceat` then adds each run of them in one pass."""
    ids, W = saved
    dtable = np.zeros((W, dx.shape[-1]), dx.dtype)
    order = np.argsort(ids, axis=None, kind="stable")
    present, first = np.unique(ids.ravel()[order], return_index=True)
    dtable[present] = np.add.reduceat(dx.reshape(-1, dx.shape[-1])[order], first, axis=0)
    return dtable


def learned_positions(x: np.ndarray, table: np.ndarray, start: int = 0) -> tuple[np.ndarray, tuple]:
    """x (B, T, D) + rows start .. start + T - 1 of table (n, D)."""
    end = start + x.shape[1]
    if end > len(table):
        raise CourseError(
            f"Positions up to {end - 1} were asked for, and {len(table)} are learnt, from 0 on. "
            "Use a shorter text or a model with a longer context."
        )
    return x + table[start:end], (start, len(table))


def learned_positions_backward(dy: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray]:
    """dx (B, T, D), dtable (n, D): every row of the batch used the same positions, so their gradients add up."""
    start, n = saved
    dtable = np.zeros((n, dy.shape[-1]), dy.dtype)
    dtable[start : start + dy.shape[1]] = dy.sum(axis=0)
    return dy, dtable


def angles(positions: np.ndarray, K: int, base: float = 10_000.0) -> np.ndarray:
    """position base^(-2i/K) (T, K/2), in float64: rounded only after the cosine and the sine."""
    return positions[:, None] * base ** (-2.0 * np.arange(K // 2) / K)


def sinusoidal(first: int, T: int, D: int, dtype: DTypeLike = np.float32) -> np.ndarray:
    """(T, D), to be added to tokens first .. first + T - 1. A constant: its gradient is not needed."""
    theta = angles(np.arange(first, first + T), D)
    return np.concatenate([np.sin(theta), np.cos(theta)], axis=1).astype(dtype)


def rotation(
    positions: np.ndarray, K: int, base: float = 10_000.0, dtype: DTypeLike = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (T, K/2) of the angles of each position (T,): the same for all layers and heads, computed once."""
    theta = angles(positions, K, base)
    return np.cos(theta).astype(dtype), np.sin(theta).astype(dtype)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """x (B, H, T, K), H vectors a token, each K wide: pairs (i, i + K/2) turned by the angles of their token."""
    y = np.roll(x, x.shape[-1] // 2, axis=-1)  # (a, b) -> (b, a), for all pairs at once
    y *= np.concatenate([-sin, sin], axis=-1)
    y += x * np.concatenate([cos, cos], axis=-1)
    return y


def rotate_backward(dy: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """dx: turned back."""
    return rotate(dy, cos, -sin)


if __name__ == "__main__":
    rng = np.random.default_rng(0)

    # A lookup is a copy; backward adds up over the copies. Id 2 occurs twice, so its row gets two gradients.
    ids = np.array([[2, 0, 2]])
    x, saved = embed(ids, rng.normal(size=(4, 2)).astype(np.float32))
    print("gradient of each row when every dx is 1:", embed_backward(np.ones_like(x), saved)[:, 0])

    # The same two vectors, four tokens apart, near the beginning and far into a text: the dot product does not change.
    query, key = rng.normal(size=(2, 1, 1, 1, 64)).astype(np.float32)
    for place in (0, 10, 1000):
        turned = [rotate(v, *rotation(np.array([p]), 64)).ravel() for v, p in ((query, place + 4), (key, place))]
        print(f"positions {place + 4:4} and {place:4}: dot product {turned[0] @ turned[1]:.4f}")

    # The hands of the sinusoidal clock: how alike are a position and the one n tokens later?
    table = sinusoidal(0, 33, 64)
    for n in (0, 1, 2, 4, 8, 16, 32):
        print(f"likeness at distance {n:2}: {table[0] @ table[n] / 32:.2f}")
