"""Measuring a model on text it has not seen: bits per byte, and what simpler things achieve on the same bytes."""

from positronic.eval.baselines import Baselines, baselines
from positronic.eval.bits_per_byte import Score, bits_per_byte, document_scores
from positronic.eval.compare import Comparison, compare
from positronic.eval.conversations import assistant_bits_per_byte

__all__ = [
    "Baselines",
    "Comparison",
    "Score",
    "assistant_bits_per_byte",
    "baselines",
    "bits_per_byte",
    "compare",
    "document_scores",
]
