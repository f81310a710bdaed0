"""Documents through a tokenizer, in calls of bounded size."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from positronic.data.sources.documents import Document, Source
from positronic.text import Tokenizer

__all__ = ["Encoded", "encode", "id_type", "pieces"]

PIECE = 1 << 16
"""Characters that go to the tokenizer as one text; longer documents are cut between words."""
BATCH = 1 << 22
"""Characters a call to `encode_batch`."""


class Encoded(NamedTuple):
    """A document, or a part of one, as tokens."""

    ids: np.ndarray
    n_bytes: int
    """UTF-8 bytes of its text."""
    counted: np.ndarray | None = None
    """Which tokens carry loss; None: all."""
    ends: bool = True
    """Whether the document ends here; its last token is then `eot_id`."""


def encode(source: Source[Document], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Documents as tokens, many pieces to a call of the tokenizer."""
    width = id_type(tokenizer)
    for batch in _batches(source):
        for ids, (text, ends) in zip(tokenizer.encode_batch([text for text, _ in batch]), batch, strict=True):
            yield Encoded(np.array([*ids, tokenizer.eot_id] if ends else ids, width), len(text.encode()), None, ends)


def _batches(source: Source[Document]) -> Iterator[list[tuple[str, bool]]]:
    """(piece, whether its document ends there), about BATCH characters together."""
    batch: list[tuple[str, bool]] = []
    room = BATCH
    for document in source:
        rest = pieces(document.text)
        for index, piece in enumerate(rest):
            batch.append((piece, index == len(rest) - 1))
            room -= len(piece)
            if room <= 0:
                yield batch
                batch, room = [], BATCH
    if batch:
        yield batch


def pieces(text: str, size: int = PIECE) -> list[str]:
    """`text` cut into parts of `size` to 2 `size` characters, where the parts encode as the whole does.

    That is after a lone line end, which every tokenizer of ours keeps apart from the words around it; in text without
    one, before a space between two letters, which only a vocabulary with pieces of several words (`within="lines"`)
    may span; else anywhere, which is without loss too, but a token longer.
    """
    cuts, start = [], 0
    while len(text) - start > 2 * size:
        window = start + size, start + 2 * size
        found = _LINE_END.search(text, *window) or _WORD_END.search(text, *window)
        end = found.end() if found else start + size
        cuts.append(text[start:end])
        start = end
    return [*cuts, text[start:]]


_LINE_END = re.compile(r"(?<=\S)\n(?=\S)")
_WORD_END = re.compile(r"[A-Za-z](?= [A-Za-z])")


def id_type(tokenizer: Tokenizer) -> type[np.uint16] | type[np.uint32]:
    """The narrowest type that holds every token id."""
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
