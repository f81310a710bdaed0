"""The same rule for all tokens at once, C at a time. 1e-5 of the definition in float32.

With b_s = eta_s / (1e-6 + |k_s|^2), and sums over s of the chunk and of t's document alone, the errors of a chunk solve

    e_t + sum_{s<t} b_s (k_s . k_t) e_s = y_t - W_0 k_t        W_0 before the chunk, 0 to tokens of later documents

a unit lower triangular system, (I + L) E = Y - K W_0^T. Its two right-hand sides are solved in all chunks before any
W_0 is known, by forward substitution: observations are often all alike, and then (I + L)^{-1} as a product of powers
of L is a difference of huge numbers. So e_s = f_s - W_0 g_s with known f and g, and the chunk is an affine map,

    W_C = W_0 (I - sum_s b_s g_s k_s^T) + sum_s b_s f_s k_s^T

whose chain over chunks is a scan in log2(T / C) rounds. Then p_t = W_0 x_t + sum_{s<=t} b_s (k_s . x_t) e_s.

Products and sums are elementwise, as no reduced precision of matrix products may reach a memory. Measured at B = 4,
R = 7, T = 2048 on one CPU core: C = 16, 32 and 64 take 69, 104 and 173 ms, compiled 17, 31 and 83 ms, the definition
124 ms.

Source   the chunkwise form of the delta rule, arXiv 2406.06484. Here no triangular matrix is inverted, and chunks are
         chained in log depth, since their maps are only M wide.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.chunks import chunks
from positronic.kernels.predictor.reference import EPSILON, Prediction

__all__ = ["CHUNK", "predict_chunked"]

CHUNK = 16


def predict_chunked(x: Tensor, key: Tensor, rate: Tensor, continues: Tensor, weight: Tensor) -> Prediction:
    """Shapes as in the definition; keeps no rollback."""
    tokens, size = x.shape[1], x.shape[-1]
    step = rate[..., None] / (EPSILON + key.square().sum(-1))  # (B, T, R)
    k, q, b = _chunks(key), _chunks(x), _chunks(step[..., None])  # (B, n, R, C, M or 1)
    same, live = _documents(continues)  # (B, n, 1, C, C), (B, n, 1, C, 1)
    written = b * k
    system = same * _dots(k, written)  # only what is below the diagonal is read
    sides = torch.cat([live * k, q[..., :-1]], -1)
    solved = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True)
    of_before, of_here = solved.split([size, size - 1], -1)  # g, f

    kept = same[..., -1, :, None] * written  # by the chunk's last document
    identity = torch.eye(size, dtype=x.dtype, device=x.device)
    turn = live[..., -1:, :] * identity - _outer_sum(of_before, kept)  # (B, n, R, M, M)
    before, after = _chain(turn, _outer_sum(of_here, kept), weight)  # (B, n, R, M-1, M), (B, R, M-1, M)

    error = of_here - _dots(of_before, before)
    reads = same.tril() * _dots(q, written)  # (B, n, R, C, C)
    ahead = live * _dots(q, before) + (reads[..., None] * error[..., None, :, :]).sum(-2)
    return Prediction(_tokens(ahead, tokens), _tokens(error, tokens), after)


def _documents(continues: Tensor) -> tuple[Tensor, Tensor]:
    """1 where two tokens of a chunk share a document, and where a token's document began before its chunk; else 0."""
    number = F.pad((~continues).cumsum(1), (1, 0))  # (B, 1 + T), 0 before the call
    number = torch.cat([number, number[:, -1:].expand(-1, -continues.shape[1] % CHUNK)], 1)  # (B, 1 + n C)
    before, inside = number[:, :-1:CHUNK], number[:, 1:].unflatten(1, (-1, CHUNK))  # (B, n), (B, n, C)
    same = inside[..., :, None] == inside[..., None, :]
    return same[:, :, None].float(), (inside == before[..., None])[:, :, None, :, None].float()


def _chain(turn: Tensor, shift: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """W -> W turn_i + shift_i of all chunks i, one after the other: W before each chunk, and after the last."""
    shift = torch.cat([shift[:, :1] + _product(weight, turn[:, 0])[:, None], shift[:, 1:]], 1)
    reach = 1
    while reach < turn.shape[1]:
        late_turn = turn[:, reach:]
        shift = torch.cat([shift[:, :reach], _product(shift[:, :-reach], late_turn) + shift[:, reach:]], 1)
        turn = torch.cat([turn[:, :reach], _product(turn[:, :-reach], late_turn)], 1)
        reach *= 2
    return torch.cat([weight[:, None], shift[:, :-1]], 1), shift[:, -1]


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """(..., i, M), (..., j, M) -> (..., i, j)."""
    total = a[..., :, None, 0] * b[..., None, :, 0]
    for m in range(1, a.shape[-1]):
        total = total + a[..., :, None, m] * b[..., None, :, m]
    return total


def _product(a: Tensor, b: Tensor) -> Tensor:
    """(..., i, M), (..., M, j) -> (..., i, j)."""
    return (a[..., None] * b[..., None, :, :]).sum(-2)


def _outer_sum(a: Tensor, b: Tensor) -> Tensor:
    """(..., C, i), (..., C, j) -> (..., i, j)."""
    return (a[..., :, None] * b[..., None, :]).sum(-3)


def _chunks(x: Tensor) -> Tensor:
    """(B, T, R, m) -> (B, n, R, C, m), zeros after the last token."""
    return chunks(x, CHUNK).transpose(2, 3)


def _tokens(x: Tensor, tokens: int) -> Tensor:
    """(B, n, R, C, m) -> (B, T, R, m)."""
    return x.transpose(2, 3).flatten(1, 2)[:, :tokens]
