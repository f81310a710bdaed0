"""Weights of three values with a scale a group, activations of eight bits with a scale a block: equations and bytes."""

from positronic.kernels.ternary.packing import packed_bytes, packed_weights, unpacked_weights
from positronic.kernels.ternary.reference import (
    BLOCK,
    SCALES,
    Levels,
    Scale,
    Trits,
    product_reference,
    quantised_activations,
    quantised_weights,
)

__all__ = [
    "BLOCK",
    "SCALES",
    "Levels",
    "Scale",
    "Trits",
    "packed_bytes",
    "packed_weights",
    "product_reference",
    "quantised_activations",
    "quantised_weights",
    "unpacked_weights",
]
