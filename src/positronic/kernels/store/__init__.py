"""Gated stores read by content: the token loop, which is the definition, and its chunked form for many tokens."""

from torch import Tensor

from positronic.kernels.dispatch import reference_only, without_autocast
from positronic.kernels.store.chunked import recall_chunked
from positronic.kernels.store.reference import Recall, choose, recall_reference

__all__ = ["LOOP", "Recall", "choose", "recall", "recall_chunked", "recall_reference"]

LOOP = 16
"""Tokens of a call up to which the loop runs, so that decoding gives the same bits however it is split."""


def recall(
    q: Tensor, address: Tensor, w: Tensor, v: Tensor, stores: Tensor, fresh: Tensor, top: int, keep_trail: bool = False
) -> Recall:
    """What T tokens read from stores they also write, in the precision of the arguments even under autocast.

    q (B, T, G or 1, V); address, w (B, T, G, E); v (B, T, 2, G or 1, V); stores (B, 2, G, E, V); fresh (B, T) bool;
    the equations are those of `reference`. keep_trail: the states between tokens are wanted, which only the loop has.
    """
    loop = w.shape[1] <= LOOP or keep_trail or reference_only()
    with without_autocast(w.device.type):
        return (recall_reference if loop else recall_chunked)(q, address, w, v, stores, fresh, top)
