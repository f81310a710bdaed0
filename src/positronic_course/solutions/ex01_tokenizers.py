"""Solutions: bytes and tokenizers."""

from collections import Counter
from itertools import pairwise
from math import log


def utf8_length(code: int) -> int:
    return 1 + sum(code >= first for first in (0x80, 0x800, 0x10000))


def best_pair(words: dict[str, int]) -> str:
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for a, b in pairwise(word):
            counts[a + b] += times
    return min(counts, key=lambda pair: (-counts[pair], pair))


def bits_per_byte(nats_a_token: float, n_tokens: int, n_bytes: int) -> float:
    # n_tokens * nats is the total; 2^bits = e^nats, so a nat is 1 / ln 2 bits.
    return nats_a_token * n_tokens / log(2) / n_bytes
