"""Noise as a function: the Gumbel variate of a token at a position, whenever and in whatever order it is asked for.

    words = Philox4x32-10(key = seed, counter = (token / 2, position, stream))      four words of 32 bits, two a token
    u     = (first 52 bits + 1/2) / 2^52                                           in (0, 1), exact in float64
    g     = -log(-log u)                                                           argmax(logits + g) ~ softmax(logits)

A token's noise thus depends on the seed, the stream (which row of a batch), the position and the token, and on nothing
else: not on drafts, on how many tokens were looked at, or on what was drawn before.

Source   Philox: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", constants and test vectors of
         Random123. Position-keyed Gumbel noise for drafts: Daliri et al. 2024, arXiv 2408.07978. There the stream is
         part of the key; here the seed fills the 64-bit key and the stream stands in the counter.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["gumbel", "philox"]

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
ONE, HALF = np.uint64(1), np.uint64(32)

Words = NDArray[np.uint64]
Four = tuple[Words, Words, Words, Words]


def philox(counter: Four, key: tuple[int, int]) -> Four:
    """Four words of 32 bits for each counter, whose words broadcast; all kept in uint64."""
    a, b, c, d = counter
    for i in range(ROUNDS):
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        k0, k1 = (np.uint64((part + i * step) & 0xFFFFFFFF) for part, step in zip(key, WEYL, strict=True))
        a, b, c, d = second >> HALF ^ b ^ k0, second & LOW, first >> HALF ^ d ^ k1, first & LOW
    return a, b, c, d


def gumbel(seed: int, stream: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Noise of `tokens` (n,) at one position of one stream, float64 (n,)."""
    n, ids = len(tokens), tokens.astype(np.uint64)
    everything = n > 1 and tokens[0] == 0 and tokens[-1] == n - 1 and bool((np.diff(tokens) == 1).all())
    pairs = np.arange((n + 1) // 2, dtype=np.uint64) if everything else ids >> ONE
    counter = pairs, _word(position), _word(stream), _word(stream >> 32)
    a, b, c, d = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    even, odd = _bits(a, b), _bits(c, d)
    bits = np.stack([even, odd], 1).reshape(-1)[:n] if everything else np.where(ids & ONE, odd, even)
    u = (bits.astype(np.float64) + 0.5) * 2.0**-52
    return -np.log(-np.log(u))


def _word(n: int) -> Words:
    return np.asarray(n & 0xFFFFFFFF, np.uint64)


def _bits(high: Words, low: Words) -> Words:
    """The first 52 of 64 bits."""
    return (high << HALF | low) >> np.uint64(12)
