"""What chunked forms of a loop over tokens share: which calls they leave to the loop, and tokens cut into chunks."""

from torch import Tensor
from torch.nn import functional as F

__all__ = ["LOOP", "chunks", "left_to_the_loop"]

LOOP = 16
"""Tokens of a call up to which the loop runs, so that decoding gives the same bits however it is split."""


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
