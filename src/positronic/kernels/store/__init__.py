"""Gated stores read by content: the token loop, which is the definition, and its chunked form for many tokens."""

from torch import Tensor

from positronic.kernels.autocast import without_autocast
from positronic.kernels.chunks import LOOP, register_chunked
from positronic.kernels.registry import best_form
from positronic.kernels.store.chunked import recall_chunked
from positronic.kernels.store.reference import Recall, choose, recall_reference

__all__ = ["LOOP", "Recall", "choose", "recall", "recall_chunked", "recall_reference"]


def recall(
    q: Tensor,
    address: Tensor,
    w: Tensor,
    v: Tensor,
    stores: Tensor,
    fresh: Tensor,
    top: int,
    keep_rollback: bool = False,
) -> Recall:
    """What T tokens read from stores they also write, in the precision of the arguments even under autocast.

    q (B, T, G or 1, V); address, w (B, T, G, E); v (B, T, 2, G or 1, V); stores (B, 2, G, E, V); fresh (B, T) bool;
    the equations are those of `reference`. keep_rollback: the states between tokens are wanted; only the loop has them.
    """
    with without_autocast(w.device.type):
        found: Recall = best_form("store", w, keep_rollback)(q, address, w, v, stores, fresh, top)
        return found


register_chunked("store", recall_chunked, recall_reference)
