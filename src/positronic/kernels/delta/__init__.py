"""The gated delta rule, split into what writes and what reads: the token loop, which is the definition, and chunks.

What is written does not depend on what is read, so a model that runs a layer again reads again without writing.
"""

from typing import NamedTuple

from torch import Tensor

from positronic.kernels.autocast import without_autocast
from positronic.kernels.chunks import LOOP, register_chunked
from positronic.kernels.delta.chunked import Chunks, read_chunked, write_chunked
from positronic.kernels.delta.reference import Memories, read_reference, replay, write_reference
from positronic.kernels.registry import best_form

__all__ = [
    "LOOP",
    "Chunks",
    "Memories",
    "Written",
    "read",
    "read_chunked",
    "read_reference",
    "replay",
    "write",
    "write_chunked",
    "write_reference",
]


class Written(NamedTuple):
    """What T tokens leave behind."""

    context: Memories | Chunks
    """What `read` needs of them, by the form that wrote; all its tensors begin with the batch."""
    memory: Tensor
    """(B, H, V, K) after the last token."""


def write(
    k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, memory: Tensor, fresh: Tensor, keep_rollback: bool = False
) -> Written:
    """Write T tokens into the memory, in the precision of the arguments even under autocast.

    k (B, T, H, K), v (B, T, H, V); log_decay, beta (B, T, H); memory (B, H, V, K); fresh (B, T) bool; the equations are
    those of `reference`. keep_rollback: a beginning of the call may be written again, by `replay`, to the same bits.
    """
    with without_autocast(k.device.type):
        return Written(*best_form("delta", k, keep_rollback)(k, v, log_decay, beta, memory, fresh))


def read(q: Tensor, context: Memories | Chunks) -> Tensor:
    """o (B, T, H, V) of q (B, T, H, K), of the tokens that were written."""
    with without_autocast(q.device.type):
        return read_reference(q, context) if isinstance(context, Memories) else read_chunked(q, context)


register_chunked("delta", write_chunked, write_reference)
