"""What chunked forms of a loop over tokens share: which calls they leave to the loop, and tokens cut into chunks."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.registry import Form, register

__all__ = ["LOOP", "chunks", "documents", "left_to_the_loop", "register_chunked"]

LOOP = 16
"""Tokens of a call up to which the loop runs, so that decoding gives the same bits however it is split."""


def register_chunked(kernel: str, chunked: Callable[..., Any], loop: Callable[..., Any]) -> None:
    """A chunked form, and the loop over tokens for the calls that are left to it."""
    takes = f"calls of more than {LOOP} tokens that keep no rollback"
    first = Form(kind="torch", name="chunked", run=chunked, takes=takes, refuses=left_to_the_loop)
    register(kernel, first, Form(kind="reference", run=loop))


def left_to_the_loop(x: Tensor, keep_rollback: bool = False) -> str | None:
    """Why a chunked form refuses a call on x (B, T, ...); None: it does not."""
    if keep_rollback:
        return "leaves calls that may be committed in part to the loop"
    return "leaves short calls to the loop" if x.shape[1] <= LOOP else None


def chunks(x: Tensor, size: int, filling: float = 0.0) -> Tensor:
    """(B, T, ...) -> (B, n, C, ...), filled up behind the last token."""
    lacking = -x.shape[1] % size
    whole = F.pad(x, (0, 0) * (x.dim() - 2) + (0, lacking), value=filling) if lacking else x  # no padding, no copy
    return whole.unflatten(1, (-1, size))


def documents(fresh: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(B, n, C): how many documents have begun, of fresh (B, T), and whether none has since before the chunk."""
    begun = chunks(fresh.long(), size).flatten(1).cumsum(1).unflatten(1, (-1, size))
    return begun, begun == F.pad(begun[:, :-1, -1:], (0, 0, 1, 0))
