"""Which row comes when: a function of the seed, the shares and the sizes, and of nothing else.

    row k comes from the source i, among those with n_i * W < w_i * (k + 1), of the smallest (n_i + 1) / w_i
    row n of source i is perm(seed, i, epoch)[n mod R_i], epoch = n div R_i

n_i rows were taken from source i before; w_i are whole numbers in the ratio of the shares, W their sum; R_i rows make
one epoch. The first line is the quota method: after any k rows, n_i is k * w_i / W rounded up or down, never further
off. (Taking the largest deficit instead drifts further when there are three sources or more.)

Source   Balinski and Young 1975, "The quota method of apportionment"; Salmon et al. 2011 (Philox).
"""

import hashlib
from collections.abc import Sequence

import numpy as np

__all__ = ["ORDER", "permutation", "schedule"]

ORDER = 1
"""Version of the order of rows; a position of another version is refused."""


def permutation(seed: int, source: int, epoch: int, n: int) -> np.ndarray:
    """(n,) the order of rows in one epoch: Philox words, one a row, sorted.

    Raw words and a stable sort, because NumPy promises the words for ever and `Generator.permutation` only for now.
    """
    digest = hashlib.sha256(f"positronic rows {seed} {source} {epoch}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def schedule(weights: Sequence[int], taken: list[int], rows: int) -> list[int]:
    """Which source each of the next `rows` rows comes from; `taken` (rows taken so far) is counted on in place."""
    total, k = sum(weights), sum(taken)
    picks = []
    for k_next in range(k + 1, k + rows + 1):
        best = -1
        for i, w in enumerate(weights):
            if taken[i] * total < w * k_next and (best < 0 or (taken[i] + 1) * weights[best] < (taken[best] + 1) * w):
                best = i
        taken[best] += 1
        picks.append(best)
    return picks
