"""Leftmost longest match: how a length-max tokenizer cuts bytes into pieces.

At each position take the longest piece that fits, then go on behind it. Every byte is a piece, so there is always one.

Cost     at most 16 look-ups a token; with words, one look-up a word that was seen before.
Source   Length-MAX tokenizer, arXiv 2511.20849.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain

__all__ = ["LINE", "WORD", "LongestMatch", "is_within_words", "longest_match_reference"]

WORD = re.compile(rb" *[^ \r\n]+|[\r\n]+| +")
"""Spaces and what follows up to the next space or newline; or a run of newlines; or spaces before one.

Where a word starts is decided by the two bytes at its border alone, so a piece that holds no such pair inside never
crosses a border in any text.
"""

LINE = re.compile(rb"[\r\n]+|[^\r\n]+")
"""A run of newlines, or what stands between two."""


def longest_match_reference(data: bytes, ids: Mapping[bytes, int]) -> Iterator[int]:
    """The definition: the ids of the pieces of `data`, one by one."""
    longest = max(map(len, ids))
    at = 0
    while at < len(data):
        end = next(end for end in range(min(at + longest, len(data)), at, -1) if data[at:end] in ids)
        yield ids[data[at:end]]
        at = end


def is_within_words(pieces: Iterable[bytes]) -> bool:
    """Whether no piece crosses the border of a word, so that text may be matched word by word."""
    return all(WORD.fullmatch(piece) for piece in pieces)


class LongestMatch:
    """The same ids as the reference, found a word at a time and remembered by word where the pieces allow it.

    benchmarks/results/tokenizers.json has its speed beside that of the reference ("spike, definition").
    """

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces = tuple(pieces)
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        self._longest = max(map(len, self._pieces))
        self._reach = {
            piece[:2]: len(piece) for piece in sorted(self._ids, key=len)
        }  # longest piece by first two bytes
        self._words = _Words(self.match) if is_within_words(self._ids) else None

    def __call__(self, data: bytes) -> list[int]:
        if self._words is None:
            return self.match(data)
        if len(self._words) > _MOST_WORDS:
            self._words.clear()
        return list(chain.from_iterable(map(self._words.__getitem__, WORD.findall(data))))

    def certain(self, data: bytes) -> tuple[list[int], int]:
        """The first ids of `data`, those that no byte behind it can change, and how many bytes they spell.

        A match is in doubt if what is left from its first byte on begins a longer piece; then so are all behind it.
        """
        ids = self(data)
        n_certain, n_bytes, start = len(ids), len(data), len(data)
        for k in range(len(ids) - 1, -1, -1):
            start -= len(self._pieces[ids[k]])
            if len(data) - start >= self._longest:
                break
            if data[start:] in self._beginnings:
                n_certain, n_bytes = k, start
        return ids[:n_certain], n_bytes

    def match(self, data: bytes) -> list[int]:
        """The ids of `data`, without a look at words."""
        ids, reach, out, at = self._ids, self._reach, [], 0
        while at < len(data):
            end = min(at + reach.get(data[at : at + 2], 1), len(data))
            while (found := ids.get(data[at:end])) is None:
                end -= 1
            out.append(found)
            at = end
        return out

    @cached_property
    def _beginnings(self) -> frozenset[bytes]:
        """What a piece begins with, short of all of it."""
        return frozenset(piece[:n] for piece in self._pieces for n in range(1, len(piece)))


_MOST_WORDS = 1 << 19  # about 120 MB
_LONGEST_WORD = 64  # longer ones hardly ever return


class _Words(dict[bytes, list[int]]):
    """The ids of each word, filled as words are asked for."""

    def __init__(self, match: Callable[[bytes], list[int]]) -> None:
        super().__init__()
        self._match = match

    def __missing__(self, word: bytes) -> list[int]:
        ids = self._match(word)
        if len(word) <= _LONGEST_WORD:
            self[word] = ids
        return ids
