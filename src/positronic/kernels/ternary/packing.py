"""I2: two bits a weight in one stream with their scales, sixteen rows side by side.

A tile is 16 rows. In it groups of 128 columns follow one another, the last perhaps of 64:

    32 bytes   float16 scales of the group, of the rows in order
    64 bytes   for every 16 columns: code t + 1 of row n and column k in byte 4 (n % 16) + k % 4 of these, from bit
               2 ((k % 16) / 4) on

Rows are filled up to 16 by codes 1 (weight 0) of scale 0, columns to 64 by codes 1. One line of 64 bytes, shifted right
by two bits j times and masked, holds four consecutive columns of all rows: the operand of a dot product of four bytes.

Shapes   t (N, K), gamma (N, ceil(K / 128)) -> bytes (S,) uint8, little-endian.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.errors import CheckpointError
from positronic.kernels.ternary.reference import BLOCK, Trits

__all__ = ["packed_bytes", "packed_weights", "unpacked_weights"]

ROWS, COLUMNS = 16, 16
"""Of one line."""
LINE, GROUP = 64, 128
"""Bytes of a line, columns of a scale."""
SCALE_BYTES = 2 * ROWS
SHIFTS = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)
"""Of the four codes in a byte."""


def packed_bytes(rows: int, columns: int) -> int:
    """Length of the stream of a matrix."""
    return _up(rows, ROWS) // ROWS * sum(_pieces(columns))


def packed_weights(w: Trits) -> Tensor:
    """The stream (S,) of a matrix whose scales float16 holds, a group of 128 columns each."""
    assert w.group == GROUP, "the stream has one scale for 128 columns"
    rows, columns = w.t.shape
    more = _up(rows, ROWS) - rows, _up(columns, BLOCK) - columns
    codes = F.pad(w.t + 1, (0, more[1], 0, more[0]), value=1).to(torch.uint8)
    # (tile, row, line, j, kk) -> (tile, line, row, kk), four codes a byte
    parts = codes.view(-1, ROWS, codes.shape[1] // COLUMNS, 4, 4).permute(0, 2, 1, 4, 3)
    lines = (parts << SHIFTS).sum(-1, dtype=torch.uint8).flatten(2)
    gamma = F.pad(w.gamma, (0, 0, 0, more[0])).half().view(-1, ROWS, w.gamma.shape[1]).mT.contiguous()
    scales = gamma.view(torch.uint8)  # (tile, group, 32)
    pieces = [
        piece
        for g, of_group in enumerate(lines.split(GROUP // COLUMNS, 1))
        for piece in (scales[:, g], of_group.flatten(1))
    ]
    return torch.cat(pieces, 1).flatten()


def unpacked_weights(stream: Tensor, rows: int, columns: int) -> Trits:
    """The matrix (rows, columns) of a stream (S,) uint8; `CheckpointError` where it is none."""
    if stream.numel() != packed_bytes(rows, columns):
        raise CheckpointError(
            f"A packed matrix of {rows} x {columns} has {packed_bytes(rows, columns):,} bytes, and here are "
            f"{stream.numel():,}. The file was cut or is of another model; fetch it again."
        )
    tiles = stream.view(_up(rows, ROWS) // ROWS, -1)
    pieces = tiles.split(_pieces(columns), 1)
    scales, lines = pieces[::2], pieces[1::2]
    held = torch.cat(lines, 1).view(len(tiles), -1, ROWS, 4)  # (tile, line, row, kk)
    codes = (held[..., None] >> SHIFTS) & 3  # (.., kk, j)
    if bool((codes == 3).any()):
        raise CheckpointError(
            "A packed matrix holds the code 3, which is no weight. The file is damaged; fetch it again."
        )
    t = codes.permute(0, 2, 1, 4, 3).reshape(len(tiles) * ROWS, -1)[:rows, :columns].to(torch.int8) - 1
    gamma = torch.stack(scales, 1).contiguous().view(torch.float16).mT.reshape(len(tiles) * ROWS, -1)[:rows]
    return Trits(t, gamma.float(), GROUP)


def _pieces(columns: int) -> list[int]:
    """Bytes of a tile's scales and of its lines, group by group."""
    whole = _up(columns, BLOCK)
    lines = (min(GROUP, whole - begin) // COLUMNS for begin in range(0, whole, GROUP))
    return [size for n in lines for size in (SCALE_BYTES, n * LINE)]


def _up(n: int, to: int) -> int:
    return -(-n // to) * to
