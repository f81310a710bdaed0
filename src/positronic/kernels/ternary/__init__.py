"""Weights of three values with a scale a group, activations of eight bits with a scale a block: equations and bytes."""

from torch import Tensor

from positronic.kernels.registry import Form, best_form, register
from positronic.kernels.ternary.packing import packed_bytes, packed_weights, unpacked_weights
from positronic.kernels.ternary.reference import (
    BLOCK,
    Levels,
    Scale,
    Trits,
    product_reference,
    quantised_activations,
    quantised_weights,
)

__all__ = [
    "BLOCK",
    "Levels",
    "Scale",
    "Trits",
    "packed_bytes",
    "packed_weights",
    "product",
    "quantised_activations",
    "quantised_weights",
    "unpacked_weights",
]


def product(x: Levels, w: Trits) -> Tensor:
    """y (..., N) of rows x (..., K) and one matrix w (N, K): whole numbers in a block, float32 over blocks."""
    found: Tensor = best_form("ternary_product", x.q)(x, w)
    return found


register("ternary_product", Form(kind="reference", run=product_reference))
