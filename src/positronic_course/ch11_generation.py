"""Generation.

The model gives a probability for every next token. Draw one, append it, ask again: that is all.

Keys and values are kept
------------------------
Asking again with the whole text would cost T tokens of work for one new token. But attention looks only backwards:
what the earlier tokens computed does not change when one is appended. The new token needs their keys and values, and
nothing else of them. Kept in a *cache*, a pair (B, H, S, K) for each layer, they make a step cost one token of work
and S products of q with k:

    logits, cache = step(ids, cache)          the same numbers as `forward` on the whole text

When the cache is full (S = context: the model was never trained on more), we begin again with the latter half of the
window, so that half a context can be written before the next time. What was cut off is forgotten.

Which token
-----------
With logits z (W,), in this order:

    temperature     p = softmax(z / temperature): below 1 sharpens, above 1 flattens; 0 means the largest z, always
    top-k           only so many of the most probable tokens; 0 keeps all
    top-p           of these, only the most probable that together reach this mass; 1 keeps all

and one of those that are left is drawn in proportion to its probability: with u uniform in [0, 1), the first token at
which the sum of the probabilities so far exceeds u. Why cut at all? The many tokens that are each very improbable are
together not improbable, and one wrong token spoils what follows.

*By numbers*: z = (2, 1, 0) is p = (0.665, 0.245, 0.090); at temperature 0.5 it is (0.867, 0.117, 0.016). Top-p 0.9
keeps two tokens, since 0.665 is too little and 0.665 + 0.245 is enough: (0.731, 0.269). With u = 0.8 the second is
drawn.

Hardware: a step reads every weight once and uses it for two operations, so its speed is that of memory and not of
arithmetic: weights of half the size make it twice as fast. The cache holds 2 D S numbers a layer and row. What
the probabilities sum to depends on the order of addition, by some units of the last place: stretching u to the very sum
that was formed makes the last token reachable, and nothing behind it.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from positronic_course import CourseError
from positronic_course.ch03_linear_and_norms import Parameters
from positronic_course.ch05_attention import keys_values, softmax
from positronic_course.ch07_loss import ModelConfig, attentions, forward

Cache = list[tuple[np.ndarray, np.ndarray]]
"""Keys and values (1, H, S, K), a pair for each layer; empty before the first token."""


def length(cache: Cache) -> int:
    """S, the tokens that a cache remembers."""
    return cache[0][0].shape[2] if cache else 0


def step(parameters: Parameters, config: ModelConfig, ids: np.ndarray, cache: Cache) -> tuple[np.ndarray, Cache]:
    """Read more tokens, ids (T,): the logits (T, W) after each of them, and the cache with them in it."""
    logits, saved = forward(parameters, ids[None], config, cache)
    return logits[0], [keys_values(of_layer) for of_layer in attentions(saved)]


def kept(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that may be drawn, the most probable first, and their probabilities; temperature above 0."""
    order = np.argsort(-logits, kind="stable")[: top_k or len(logits)]
    p = softmax(logits[order] / temperature)
    before = np.cumsum(p) - p
    order, p = order[before < top_p], p[before < top_p]
    return order, p / p.sum()


def sample(logits: np.ndarray, rng: np.random.Generator, temperature: float, top_k: int, top_p: float) -> int:
    """One token, drawn from logits (W,)."""
    if temperature == 0:
        return int(logits.argmax())
    order, p = kept(logits, temperature, top_k, top_p)
    up_to = np.cumsum(p)
    return int(order[np.searchsorted(up_to, rng.random() * up_to[-1], side="right")])


def generate(
    parameters: Parameters,
    config: ModelConfig,
    ids: Iterable[int],
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator,
) -> Iterator[int]:
    """Continue ids by n tokens, one at a time."""
    text = list(ids)
    check(len(text) > 0, "The prompt is empty: give the model a word to begin with.")
    check(temperature >= 0, f"The temperature is {temperature}; use 0 (always the most probable) or more.")
    check(top_k >= 0, f"top-k is {top_k}; use 0 (keep all) or more.")
    check(0 < top_p <= 1, f"top-p is {top_p}; use a share above 0, up to 1 (keep all).")
    check(n >= 0, f"{n} tokens were asked for; use 0 or more.")
    cache: Cache = []
    unread = text[-config.context :]
    for _ in range(n):
        if length(cache) + len(unread) > config.context:
            cache, unread = [], text[-max(1, config.context // 2) :]
        logits, cache = step(parameters, config, np.array(unread), cache)
        chosen = sample(logits[-1], rng, temperature, top_k, top_p)
        text.append(chosen)
        unread = [chosen]
        yield chosen


def check(condition: bool, message: str) -> None:
    """Refuse what cannot be, in one sentence."""
    if not condition:
        raise CourseError(message)


if __name__ == "__main__":
    from positronic_course.ch08_initialisation import initialise

    # The cache gives what the whole text gives.
    config = ModelConfig(vocab_size=300, d_model=32, n_heads=2, n_layers=2, d_hidden=64, context=64)
    parameters = initialise(config, seed=0)
    ids = np.random.default_rng(0).integers(0, 300, size=40)
    whole, _ = forward(parameters, ids[None], config)
    cache: Cache = []
    one_by_one = []
    for number in ids:
        logits, cache = step(parameters, config, np.array([number]), cache)
        one_by_one.append(logits[0])
    print("largest difference of the logits:", np.abs(np.array(one_by_one) - whole[0]).max())

    # How temperature, top-k and top-p change five probabilities.
    z = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05]))
    for temperature, top_k, top_p in ((1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.8)):
        order, p = kept(z, temperature, top_k, top_p)
        print(f"temperature {temperature}, top-k {top_k}, top-p {top_p}: tokens {order} with {p.round(3)}")
