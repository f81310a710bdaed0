"""What a model must beat: bits per byte of the same bytes under compressors and under a unigram model.

unigram   -sum over tokens of log2((count + 1) / (total + W)) / bytes       counts from the training text
"""

import gzip
import lzma
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from positronic.errors import DataError

__all__ = ["Baselines", "baselines"]


class Encoder(Protocol):
    """What the unigram model needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    def encode_bytes(self, data: bytes) -> list[int]: ...


@dataclass(frozen=True)
class Baselines:
    """Bits per byte."""

    gzip: float
    """Level 9, nothing known beforehand."""
    xz: float
    """Preset 9 extreme, nothing known beforehand."""
    unigram_bytes: float
    """Frequencies of single bytes in the training text."""
    unigram_tokens: float
    """Frequencies of the tokenizer's tokens in the training text."""

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def baselines(data: bytes, train: bytes, tokenizer: Encoder) -> Baselines:
    """Scores of the held-out `data`; the unigram models learn from `train`."""
    if not data:
        raise DataError("There are no held-out bytes to compare on. Give text that is not empty.")
    return Baselines(
        gzip=8 * len(gzip.compress(data, 9, mtime=0)) / len(data),
        xz=8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data),
        unigram_bytes=_unigram_bits(list(data), list(train), 256) / len(data),
        unigram_tokens=_unigram_bits(tokenizer.encode_bytes(data), tokenizer.encode_bytes(train), tokenizer.vocab_size)
        / len(data),
    )


def _unigram_bits(ids: Sequence[int], train: Sequence[int], vocab_size: int) -> float:
    """Bits of `ids` under the frequencies of `train`, one added to each count."""
    counts = np.bincount(np.asarray(train, dtype=np.int64), minlength=vocab_size) + 1.0
    seen = np.bincount(np.asarray(ids, dtype=np.int64), minlength=vocab_size)
    return float(-(seen * np.log2(counts / counts.sum())).sum())
