"""Matrix memory with exponential gates: the token loop, which is the definition, and its chunked form.

A call is two: `write` puts tokens into the memory, `read` asks what queries of the same tokens find there, as often as
one likes.
"""

from torch import Tensor

from positronic.kernels.autocast import without_autocast
from positronic.kernels.chunks import LOOP, register_chunked
from positronic.kernels.mlstm.chunked import CHUNK, ChunkContext, floored_chunked, read_chunked, write_chunked
from positronic.kernels.mlstm.reference import Cell, LoopContext, floored_reference, read_reference, write_reference
from positronic.kernels.registry import best_form

__all__ = [
    "CHUNK",
    "LOOP",
    "Cell",
    "ChunkContext",
    "Context",
    "LoopContext",
    "floored",
    "read",
    "read_chunked",
    "read_reference",
    "write",
    "write_chunked",
    "write_reference",
]

Context = LoopContext | ChunkContext
"""What the form that wrote keeps for reads."""


def write(
    k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, cell: Cell, fresh: Tensor, keep_rollback: bool = False
) -> tuple[Context, Cell]:
    """What T tokens leave behind, in the precision of the arguments even under autocast: for `read`, and after them.

    k (B, T, H, K), v (B, T, H, V), log_i, log_f (B, T, H), fresh (B, T) bool; the equations are those of `reference`.
    keep_rollback: a part of the call may be written again, which the loop alone does with the same bits.
    """
    with without_autocast(k.device.type):
        found: tuple[Context, Cell] = best_form("mlstm", k, keep_rollback)(k, v, log_i, log_f, cell, fresh)
        return found


def read(q: Tensor, context: Context) -> Tensor:
    """q (B, T, H, K), of the tokens that were written -> h (B, T, H, V), each from the memory after its token."""
    with without_autocast(q.device.type):
        return read_reference(q, context) if isinstance(context, LoopContext) else read_chunked(q, context)


def floored(q: Tensor, context: Context) -> Tensor:
    """(B, T, H) bool: where |n . q| is so small that what was found is not divided by it; for who watches."""
    with without_autocast(q.device.type):
        return floored_reference(q, context) if isinstance(context, LoopContext) else floored_chunked(q, context)


register_chunked("mlstm", write_chunked, write_reference)
