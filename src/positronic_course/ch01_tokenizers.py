"""Bytes and tokenizers.

A model reads numbers. Text is already numbers: UTF-8 writes every text of every language as bytes, each from 0 to
255. A byte is the smallest piece that a tokenizer may fall back on, so all three tokenizers here begin with the same
256 pieces, one for each byte, and add longer ones. That makes them lossless: what no longer piece covers is spelt in
bytes.

    vocabulary   pieces[0..255] the single bytes, pieces[256..W-1] what was learnt; the id of a piece is its place
    encode       text -> ids, an array of integers
    decode       ids -> text, the pieces joined; decode(encode(text)) == text for every text

Letters: W the size of the vocabulary.

Characters, words, pairs
------------------------
*Characters*: every character that occurs in the training text is a piece. Short vocabulary, long sequences.

*Words*: the most frequent words are pieces, each with the space before it. Short sequences, but a word that was never
seen is spelt out.

*Byte-pair encoding* finds what lies between. Begin with bytes, count how often each pair of neighbours occurs, make
the most frequent pair one new piece, and count again. To encode, apply the same merges in the order they were learnt.
Pairs never reach across the border of a word, so it is enough to count each distinct word once, with how often it
occurs. A pair that occurs once is not worth a piece; when no pair occurs twice, the text supports no larger
vocabulary.

*By numbers*: the text `low low lower` holds the pair lo three times and ow three times; of equals the one that sorts
first is taken, so the first piece is lo. Then lo-w occurs three times: low. Then the space and low, twice. No pair is
left that occurs twice, so W = 256 + 3 ends it, and ` lower` is three tokens: the piece ` low`, e, r.

Bits per byte
-------------
*By numbers*: let the text aaab be four tokens of probability 1/2, 1/2, 1/2 and 1/8. That is 1 + 1 + 1 + 3 = 6 bits for
4 bytes, 1.5 bits per byte. Cut into aaa and b, of probability 1/4 each, it is 2 + 2 = 4 bits for the same 4 bytes: 1.0
bits per byte, although every token was harder to guess than most of those before.

Which of them is best? Not the one whose tokens are easiest to guess: they may simply be shorter. Bytes are the same
for everyone, so divide by them. If a model gives the tokens of a text the probabilities p_1, p_2, ...

    bits per byte = - (log2 p_1 + log2 p_2 + ...) / number of bytes in the text

It is also the size of the text in an ideal compressor that uses this model. Below, the model is the simplest there
is: the frequency of each piece in the training text, plus one so that nothing is impossible.

Hardware: a token id is an address. A vocabulary of W pieces needs a table of W rows in memory, and looking one up
costs no arithmetic at all: what a longer piece saves is all the work that the model would do for one token more.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from math import log2

import numpy as np

from positronic_course import CourseError

BYTES = [bytes([value]) for value in range(256)]
WORD = re.compile(r" ?\w+|\W")
"""A word with the space before it, or one other character: every character is in one of them."""


class Tokenizer:
    """What the three have in common. A kind says how to cut a text into units, and how to spell one unit."""

    kind = "bytes"

    def __init__(self, pieces: list[bytes]):
        self.pieces = pieces
        self.id_of = {piece: number for number, piece in enumerate(pieces)}

    def __len__(self) -> int:
        return len(self.pieces)

    def units(self, text: str) -> Iterable[str]:
        return text

    def spell(self, unit: str) -> list[int]:
        """The piece of that name, or the bytes of the unit."""
        raw = unit.encode("utf-8")
        return [self.id_of[raw]] if raw in self.id_of else list(raw)

    def encode(self, text: str) -> np.ndarray:
        spelt: dict[str, list[int]] = {}
        ids: list[int] = []
        for unit in self.units(text):
            if unit not in spelt:
                spelt[unit] = self.spell(unit)
            ids += spelt[unit]
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are not UTF-8, as a model may write them, become the replacement sign."""
        return b"".join(self.pieces[number] for number in ids).decode("utf-8", errors="replace")

    def to_json(self) -> str:
        """Kind and pieces; Latin-1 shows each byte as one character."""
        return json.dumps({"kind": self.kind, "pieces": [piece.decode("latin-1") for piece in self.pieces[256:]]})


class CharTokenizer(Tokenizer):
    """Every character of the training text is a piece."""

    kind = "char"

    @classmethod
    def learn(cls, text: str) -> "CharTokenizer":
        longer = {character.encode("utf-8") for character in text} - set(BYTES)
        return cls(BYTES + sorted(longer))


class WordTokenizer(Tokenizer):
    """The most frequent words are pieces."""

    kind = "word"

    @classmethod
    def learn(cls, text: str, vocab_size: int) -> "WordTokenizer":
        counts = Counter(WORD.findall(text))
        by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
        words = [word.encode("utf-8") for word in by_frequency if len(word.encode("utf-8")) > 1]
        check_size(vocab_size, 256 + len(words))
        return cls(BYTES + words[: vocab_size - 256])

    def units(self, text: str) -> Iterable[str]:
        return WORD.findall(text)


class BPETokenizer(Tokenizer):
    """Byte-pair encoding. A piece's place in the vocabulary is also the rank of its merge."""

    kind = "bpe"

    @classmethod
    def learn(cls, text: str, vocab_size: int) -> "BPETokenizer":
        pieces = learn_merges(text, vocab_size)
        check_size(vocab_size, len(pieces))
        return cls(pieces)

    def units(self, text: str) -> Iterable[str]:
        return WORD.findall(text)

    def spell(self, unit: str) -> list[int]:
        """Join the neighbours whose piece was learnt first, as long as any two make a piece."""
        parts = [bytes([value]) for value in unit.encode("utf-8")]
        while len(parts) > 1:
            ranks = [self.id_of.get(a + b, len(self)) for a, b in pairwise(parts)]
            first = min(ranks)
            if first == len(self):
                break
            parts = join(parts, self.pieces[first])
        return [self.id_of[part] for part in parts]


KINDS = {kind.kind: kind for kind in (Tokenizer, CharTokenizer, WordTokenizer, BPETokenizer)}


def from_json(text: str) -> Tokenizer:
    """The tokenizer that `to_json` wrote."""
    saved = json.loads(text)
    if saved["kind"] not in KINDS:
        raise CourseError(f"There is no tokenizer of kind {saved['kind']!r}; the course has {', '.join(KINDS)}.")
    return KINDS[saved["kind"]](BYTES + [piece.encode("latin-1") for piece in saved["pieces"]])


def check_size(wanted: int, largest: int) -> None:
    """Refuse a vocabulary that the text does not support, or that has no room for the bytes."""
    if not 256 <= wanted <= largest:
        raise CourseError(
            f"A vocabulary of {wanted} was asked for; this text supports 256 (the bytes alone) to {largest}. "
            f"Use --vocab-size {max(256, min(wanted, largest))}, or more text."
        )


def join(parts: list[bytes], piece: bytes) -> list[bytes]:
    """Parts of one word with every two neighbours that make `piece` joined, from the left."""
    joined: list[bytes] = []
    at = 0
    while at < len(parts):
        two = parts[at] + parts[at + 1] if at + 1 < len(parts) else b""
        joined.append(piece if two == piece else parts[at])
        at += 2 if two == piece else 1
    return joined


def learn_merges(text: str, vocab_size: int) -> list[bytes]:
    """Pieces in the order they are learnt, until there are vocab_size or no pair occurs twice.

    A pair is known by its joined bytes. Only the words that hold the new pair are counted again: `where` knows them.
    """
    words = [([bytes([v]) for v in word.encode("utf-8")], count) for word, count in Counter(WORD.findall(text)).items()]
    counts: Counter[bytes] = Counter()
    where: defaultdict[bytes, set[int]] = defaultdict(set)

    def count(number: int, sign: int) -> None:
        parts, times = words[number]
        for a, b in pairwise(parts):
            counts[a + b] += sign * times
            where[a + b].add(number)

    for number in range(len(words)):
        count(number, +1)
    pieces = list(BYTES)
    while len(pieces) < vocab_size and counts:
        most = max(counts.values())
        if most < 2:
            break
        pair = min(joined for joined, times in counts.items() if times == most)
        pieces.append(pair)
        for number in where.pop(pair):
            count(number, -1)
            words[number] = (join(words[number][0], pair), words[number][1])
            count(number, +1)
        del counts[pair]
    return pieces


def unigram_bits_per_byte(tokenizer: Tokenizer, training_text: str, other_text: str) -> float:
    """Size of the other text in bits per byte when every piece costs -log2 of its frequency in the training text."""
    counts = np.bincount(tokenizer.encode(training_text), minlength=len(tokenizer)) + 1
    ids = tokenizer.encode(other_text)
    bits = log2(counts.sum()) * len(ids) - np.log2(counts[ids]).sum()
    return float(bits) / len(other_text.encode("utf-8"))


if __name__ == "__main__":
    # The corpus of the course, and the last tenth of it that no tokenizer sees.
    from importlib.resources import files

    corpus = files("positronic_course").joinpath("corpus.txt").read_text("utf-8")
    seen, unseen = corpus[: len(corpus) * 9 // 10], corpus[len(corpus) * 9 // 10 :]

    # Three ways to cut the same text.
    tokenizers = [CharTokenizer.learn(seen), WordTokenizer.learn(seen, 456), BPETokenizer.learn(seen, 456)]
    for tokenizer in tokenizers:
        ids = tokenizer.encode("Anna laughed a little.")
        print(f"{tokenizer.kind:5} {len(ids):3} tokens  {[tokenizer.decode([number]) for number in ids]}")

    # Lossless, whatever the text; and compared by what an ideal compressor would need.
    for tokenizer in tokenizers:
        strange = "Früh am Morgen: 日の出 🌅"
        assert tokenizer.decode(tokenizer.encode(strange)) == strange
        bits = unigram_bits_per_byte(tokenizer, seen, unseen)
        print(f"{tokenizer.kind:5} W = {len(tokenizer)}  {bits:.3f} bits per byte")
