"""Training of a length-max tokenizer: the vocabulary with which leftmost longest match needs the fewest tokens.

In files and flags its kind is "spike".

    T[p]     tokens from byte p to the end of its word = 1 + T[p + longest[p]],   T[end] = 0
    gain(c)  = sum over words, over token starts p where c is longer than the match, of
               count(word) * (T[p] - 1 - T[p + len(c)]):                 tokens that c would save
    loss(v)  = sum over words, over token starts p where v is the match, of
               count(word) * (1 + T[p + second[p]] - T[p]):              tokens that v saves over the next longest

Each round adds the pieces of greatest gain, a fixed share of the vocabulary at once, segments anew and drops what
nothing uses. Growth ends a tenth or more past the size asked for; then the pieces of least loss go, half of the surplus
at a time. Ties: longer, then lexicographic.

State    every byte string of 2..16 bytes that stands twice inside words is a node, numbered by length, then by bytes;
         node[n][p] is that of the n bytes from p on. A vocabulary is a flag a node, so a round is array look-ups.
Cost     about 150 bytes of memory a byte of distinct words, of which 50 MB of English have 4.3 MB; time in proportion.
Source   Length-MAX tokenizer, arXiv 2511.20849. Its score, count * (len - 1), is `gain` as long as tokens
         are bytes. Later the two differ, and we keep to what the score stands for, the tokens saved.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from positronic.errors import TokenizerError
from positronic.text.definition import LONGEST_PIECE, Definition
from positronic.text.longest_match import LINE, WORD
from positronic.text.special import LONGEST_WORD, N_CONTROL, without_control_names
from positronic.text.tokenizer import Tokenizer

__all__ = ["train_length_max"]

_SHARE = 0.3  # pieces added a round, of those there are
_SURPLUS = 1.1  # size to grow past, of the size asked for
_MOST_BYTES = 12 << 20  # of distinct words: the rarest beyond are left out, for memory below 3 GB


def train_length_max(
    texts: Iterable[str | bytes],
    vocab_size: int = 16_512,
    *,
    within: Literal["words", "lines"] = "words",
    progress: Callable[[int, int], None] | None = None,
) -> Tokenizer:
    """A length-max tokenizer of `vocab_size` entries: 256 bytes, learned pieces of 2..16 bytes, 128 control tokens.

    Pieces lie within words, which begin with their spaces, or within lines. Equal texts give equal files, in any order.
    `progress(entries, vocab_size)` is called each round. Raises `TokenizerError` for no text, and for text that has no
    use for so many entries, with the number it has use for.
    """
    if vocab_size <= 256 + N_CONTROL:
        raise TokenizerError(f"vocab_size is {vocab_size}; a spike tokenizer has more than {256 + N_CONTROL} entries.")
    words = _count(texts, WORD if within == "words" else LINE)
    if not words:
        raise TokenizerError("There is no text to train a tokenizer on; give at least one text that is not empty.")
    corpus = _Corpus(words)
    wanted = vocab_size - N_CONTROL
    known = corpus.length == 1
    for known in _growth(corpus, int(_SURPLUS * wanted)):
        if progress is not None:
            progress(min(int(known.sum()), wanted) + N_CONTROL, vocab_size)
    largest = int(known.sum()) + N_CONTROL
    if largest < vocab_size:
        raise TokenizerError(
            f"The text has use for at most {largest} entries, and {vocab_size} were asked for; "
            f"give more text, or ask for {largest}."
        )
    known = _give_back(corpus, known, wanted)
    return Tokenizer(Definition("spike", tuple(corpus.spell(node) for node in np.flatnonzero(known).tolist())))


def _count(texts: Iterable[str | bytes], unit: re.Pattern[bytes]) -> Counter[bytes]:
    """Distinct words and how often they stand in the texts; the names of control tokens are left out."""
    words: Counter[bytes] = Counter()
    for text in texts:
        for part in without_control_names(text):
            words.update(unit.findall(part))
    for word in [word for word in words if len(word) > LONGEST_WORD]:
        count = words.pop(word)
        for at in range(0, len(word), LONGEST_WORD):
            words[word[at : at + LONGEST_WORD]] += count
    return words


def _most_frequent(words: Counter[bytes]) -> list[bytes]:
    """All words that fit `_MOST_BYTES`, in lexicographic order; among equally rare ones a checksum decides."""
    if sum(map(len, words)) <= _MOST_BYTES:
        return sorted(words)
    ranked = sorted(words, key=lambda word: (-words[word], zlib.crc32(word), word))
    total = np.cumsum([len(word) for word in ranked])
    return sorted(ranked[: int(np.searchsorted(total, _MOST_BYTES, side="right"))])


class _Corpus:
    """Distinct words end to end, `A` bytes in all, and the node of every byte string inside one."""

    def __init__(self, words: Counter[bytes]):
        # The bytes come first, as words that weigh nothing, so that node b < 256 is spelt at b.
        distinct = [bytes([b]) for b in range(256)] + _most_frequent(words)
        size = np.array([len(word) for word in distinct])
        weight = np.array([0] * 256 + [words[word] for word in distinct[256:]], np.float64)
        self.data = np.frombuffer(b"".join(distinct), np.uint8)  # (A,)
        self.first = (np.cumsum(size) - size).astype(np.int32)  # (words,)
        self.left = (np.repeat(np.cumsum(size), size) - np.arange(len(self.data))).astype(np.int32)  # (A,) of the word
        self.weight = np.repeat(weight, size)  # (A,)
        order = np.argsort(self.left, kind="stable")
        self.by_left = np.split(order, np.cumsum(np.bincount(self.left)))[1:-1]  # bytes with 1, 2, ... left
        self.node, self.start, self.length = self._number()

    def _number(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """node[n] (A,), n from 1; start and length of each node, and of one more: node -1, which is none."""
        node = self.data.astype(np.int32)
        nodes, starts, lengths, total = [node, node], [np.arange(256)], [np.full(256, 1)], 256
        for n in range(2, LONGEST_PIECE + 1):
            at = np.flatnonzero((self.left >= n) & (node >= 0))
            spelling = node[at].astype(np.int64) * 256 + self.data[at + n - 1]
            _, first, which = np.unique(spelling, return_index=True, return_inverse=True)
            twice = np.bincount(which, self.weight[at], len(first)) >= 2
            node = np.full(len(self.data), -1, np.int32)
            node[at] = np.where(twice, total - 1 + np.cumsum(twice), -1)[which]
            nodes.append(node)
            starts.append(at[first[twice]])
            lengths.append(np.full(len(starts[-1]), n))
            total += len(starts[-1])
        return nodes, np.concatenate([*starts, [0]]), np.concatenate([*lengths, [0]])

    def spell(self, node: int) -> bytes:
        return self.data[self.start[node] : self.start[node] + self.length[node]].tobytes()


class _Segmentation:
    """The corpus cut by a vocabulary: `known` has a flag for every node."""

    def __init__(self, corpus: _Corpus, known: np.ndarray):
        self.corpus = corpus
        self.longest = np.ones(len(corpus.data), np.int32)  # (A,) length of the match
        self.second = np.ones(len(corpus.data), np.int32)  # (A,) length of the next longest
        for n in range(2, LONGEST_PIECE + 1):
            here = known[corpus.node[n]]
            np.copyto(self.second, self.longest, where=here)
            self.longest[here] = n
        self.starts = self._token_starts()  # (tokens,)
        self.tokens_left = self._tokens_left()  # (A + 1,) T; the last is an end

    def _token_starts(self) -> np.ndarray:
        found, at = [], self.corpus.first
        while len(at):
            found.append(at)
            step = self.longest[at]
            at = (at + step)[step < self.corpus.left[at]]
        return np.concatenate(found)

    def _tokens_left(self) -> np.ndarray:
        tokens = np.zeros(len(self.longest) + 1, np.int32)
        for at in self.corpus.by_left:
            tokens[at] = 1 + self._tokens_after(at, self.longest[at], tokens)
        return tokens

    def _tokens_after(self, at: np.ndarray, size: np.ndarray | int, tokens: np.ndarray) -> np.ndarray:
        """Tokens of what follows the piece of this size at each of these bytes."""
        return np.where(self.corpus.left[at] == size, 0, tokens[at + size])

    def gains(self) -> np.ndarray:
        """(nodes,) tokens that each unknown node would save."""
        corpus, total = self.corpus, np.zeros(len(self.corpus.length))
        for n in range(2, LONGEST_PIECE + 1):
            node = corpus.node[n][self.starts]
            better = (node >= 0) & (self.longest[self.starts] < n)
            at = self.starts[better]
            saved = self.tokens_left[at] - 1 - self._tokens_after(at, n, self.tokens_left)
            total += np.bincount(node[better], corpus.weight[at] * saved, len(total))
        return total

    def losses(self) -> np.ndarray:
        """(nodes,) tokens that each known node saves."""
        saved = 1 + self._tokens_after(self.starts, self.second[self.starts], self.tokens_left)
        return self._by_match(self.corpus.weight[self.starts] * (saved - self.tokens_left[self.starts]))

    def uses(self) -> np.ndarray:
        """(nodes,) tokens that each node is, in the whole text."""
        return self._by_match(self.corpus.weight[self.starts])

    def _by_match(self, weight: np.ndarray) -> np.ndarray:
        match = np.empty(len(self.starts), np.int32)
        for n in range(1, LONGEST_PIECE + 1):
            here = self.longest[self.starts] == n
            match[here] = self.corpus.node[n][self.starts[here]]
        return np.bincount(match, weight, len(self.corpus.length))


def _growth(corpus: _Corpus, wanted: int) -> Iterable[np.ndarray]:
    """Vocabularies, each larger than the one before, to `wanted` pieces or more, or as many as the text has use for.

    They do not depend on `wanted`, so what the text has use for can be had when asked for.
    """
    known = corpus.length == 1
    while known.sum() < wanted:
        grown = _with_best(corpus, known, int(_SHARE * known.sum()))
        if grown.sum() <= known.sum():
            return
        known = grown
        yield known


def _with_best(corpus: _Corpus, known: np.ndarray, count: int) -> np.ndarray:
    """`known` and the pieces whose gain is greatest, without those that nothing uses then."""
    gain = np.where(known, 0, _Segmentation(corpus, known).gains())
    candidates = np.flatnonzero(gain > 0)
    best = np.lexsort((candidates, -corpus.length[candidates], -gain[candidates]))
    grown = known.copy()
    grown[candidates[best[:count]]] = True
    return grown & ((_Segmentation(corpus, grown).uses() > 0) | (corpus.length == 1))


def _give_back(corpus: _Corpus, known: np.ndarray, wanted: int) -> np.ndarray:
    """`known` without the pieces whose loss is least, down to `wanted`."""
    while (surplus := int(known.sum()) - wanted) > 0:
        loss = _Segmentation(corpus, known).losses()
        learned = np.flatnonzero(known & (corpus.length > 1))
        worst = np.lexsort((-learned, corpus.length[learned], loss[learned]))
        known = known.copy()
        known[learned[worst[: (surplus + 1) // 2]]] = False
    return known
