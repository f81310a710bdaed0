"""What a model must beat: bits per byte of the same bytes under compressors and under a unigram model.

unigram   -sum over tokens of log2((count + 1) / (total + W)) / bytes       counts from the training text
"""

import gzip
import lzma
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from positronic.errors import DataError

__all__ = ["Baselines", "baselines"]


class Encoder(Protocol):
    """What the unigram model needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...


@dataclass(frozen=True)
class Baselines:
    """Bits per byte."""

    gzip: float
    """Level 9, nothing known beforehand."""
    xz: float
    """Preset 9 extreme, nothing known beforehand."""
    unigram: float
    """Frequencies of the tokenizer's tokens in the training text."""

    def to_json(self) -> dict[str, float]:
        """The scores by name."""
        return asdict(self)


def baselines(tokenizer: Encoder, held_out: Sequence[str], train: Iterable[str]) -> Baselines:
    """Scores of the held-out texts, one after another; the unigram models learn from `train`."""
    data = "".join(held_out).encode()
    if not data:
        raise DataError("There is no held-out text to compare on. Give text that is not empty.")
    size = tokenizer.vocab_size
    known = np.zeros(size)
    for text in train:
        known += _counts(tokenizer.encode_batch([text])[0], size)
    tokens = [token for ids in tokenizer.encode_batch(held_out) for token in ids]
    return Baselines(
        gzip=8 * len(gzip.compress(data, 9, mtime=0)) / len(data),
        xz=8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data),
        unigram=_bits(_counts(tokens, size), known) / len(data),
    )


def _counts(ids: Sequence[int], size: int) -> np.ndarray:
    return np.bincount(np.array(ids, int), minlength=size)


def _bits(seen: np.ndarray, known: np.ndarray) -> float:
    """Bits of what was `seen` under the frequencies `known`, one added to each count."""
    return float(-(seen * np.log2((known + 1) / (known + 1).sum())).sum())
