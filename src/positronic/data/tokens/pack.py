"""Rows out of token shards: windows of running text, or whole conversations packed side by side.

Text           row i holds tokens i*T .. i*T + T of the shard: T to predict from, T to predict. Documents follow each
               other through their `eot_id`; `Step.of` numbers them from it, so that they do not see each other. Every
               target counts, also the first token of a text, which its lone `eot_id` predicts, as in scoring. Fewer
               than T tokens at the end of the shard belong to no row.
Conversations  best-fit decreasing into rows of T+1 tokens; none is cut unless it is longer than a row, and then at
               its end. What is left of a row is padding. Only tokens that the chat form marks carry loss; conversations
               in which none is left are dropped, and counted.
"""

from bisect import bisect_left, insort
from typing import Any

import numpy as np

from positronic.data.tokens.rows import Windows
from positronic.data.tokens.shards import Shard

__all__ = ["ChatRows", "TextRows"]


class TextRows:
    """Consecutive windows of T+1 tokens at stride T: a `Rows` table."""

    pads = False

    def __init__(self, shard: Shard, seq_len: int):
        self.shard, self.seq_len = shard, seq_len
        self.name, self.fingerprint = shard.name, shard.fingerprint
        self.n_tokens = len(shard.tokens)
        self.n_rows = max(0, (self.n_tokens - 1) // seq_len)
        self.notes: dict[str, Any] = {"documents": shard.manifest["documents"]}
        self.none_because = (
            f"has {self.n_tokens} tokens to train on; one row of --seq-len {seq_len} needs {seq_len + 1}. "
            f"Give more text, or a smaller --seq-len."
        )

    def read(self, rows: np.ndarray) -> Windows:
        """The windows of these rows."""
        places = rows[:, None] * self.seq_len + np.arange(self.seq_len + 1)
        return Windows(self.shard.tokens[places])


class ChatRows:
    """Whole conversations in rows of T+1 tokens, padded at the end: a `Rows` table."""

    pads = True

    def __init__(self, shard: Shard, seq_len: int, *, cut: bool = True):
        """`cut`: what is longer than a row loses its end; else it is dropped, as pairs are, which end in an answer."""
        assert shard.mask is not None, "a shard of conversations has a mask"
        self.shard, self.mask, self.seq_len = shard, shard.mask, seq_len
        self.name, self.fingerprint = shard.name, shard.fingerprint
        sizes = np.diff(shard.documents)
        lengths = np.minimum(sizes, seq_len + 1)
        before = np.concatenate([[0], np.cumsum(self.mask, dtype=np.int64)])
        starts = np.asarray(shard.documents[:-1])
        whole = sizes <= seq_len + 1
        useful = np.flatnonzero((before[starts + lengths] > before[starts]) & (whole | cut))
        self._rows = best_fit(lengths, useful, seq_len + 1)
        self.n_rows, self.n_tokens = len(self._rows), int(lengths[useful].sum())
        self.notes: dict[str, Any] = {
            "conversations": len(useful),
            "truncated": int((~whole[useful]).sum()),
            "dropped": len(lengths) - len(useful),
            "filled": self.n_tokens / max(1, self.n_rows * (seq_len + 1)),
        }
        taught = sizes[before[starts + sizes] > before[starts]]
        self.none_because = _none_because(len(sizes), taught, seq_len, "conversations" if cut else "pairs")

    def read(self, rows: np.ndarray) -> Windows:
        """These rows; padding is token 0 and not real."""
        shape = (len(rows), self.seq_len + 1)
        ids, counted, real = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, bool)
        for out, row in enumerate(rows):
            at = 0
            for document in self._rows[row]:
                start, end = self.shard.documents[document : document + 2]
                n = min(end - start, self.seq_len + 1)
                ids[out, at : at + n] = self.shard.tokens[start : start + n]
                counted[out, at : at + n] = self.mask[start : start + n]
                at += n
            real[out, :at] = True
        return Windows(ids, counted, real)


def _none_because(n: int, taught: np.ndarray, seq_len: int, what: str) -> str:
    """Why none of `n` documents is in a row; `taught` are the sizes of those in which something is to be learned."""
    if len(taught) == 0:
        return f"leaves nothing to train on: in none of its {n} {what} is a word to be learned. Give others."
    return (
        f"leaves nothing to train on: all answers of its {n} {what} end or begin behind a row of --seq-len {seq_len}. "
        f"Use a larger --seq-len: the shortest of them needs {int(taught.min()) - 1}; or give shorter {what}."
    )


def best_fit(lengths: np.ndarray, chosen: np.ndarray, room: int) -> list[list[int]]:
    """Which of the chosen documents share a row of `room` tokens: longest first, each where it leaves least over."""
    rows: list[list[int]] = []
    free: dict[int, list[int]] = {}  # tokens left: rows that have so many left
    sizes: list[int] = []  # its keys, sorted
    for document in chosen[np.argsort(-lengths[chosen], kind="stable")]:
        need = int(lengths[document])
        at = bisect_left(sizes, need)
        if at == len(sizes):
            row, left = len(rows), room
            rows.append([])
        else:
            left = sizes[at]
            row = free[left].pop()
            if not free[left]:
                del free[left], sizes[at]
        rows[row].append(int(document))
        left -= need
        if left not in free:
            free[left] = []
            insort(sizes, left)
        free[left].append(row)
    return rows
