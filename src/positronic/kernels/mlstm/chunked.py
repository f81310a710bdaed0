"""Matrix memory with exponential gates in chunks of tokens: products of small matrices.

With d_ts = sum_{s<u<=t} log f_u, a chunk that finds the memory (C_0, n_0, m_0), and any m_t,

    A_ts = exp(d_ts + log i_s - m_t)  for s <= t      a_t = exp(log f_first + .. + log f_t + m_0 - m_t)      else 0
    C_t q_t = sum_s A_ts (k_s . q_t) v_s + a_t C_0 q_t          n_t . q_t = sum_s A_ts (k_s . q_t) + a_t n_0 . q_t

where what was written before a document begins is left out after it. The memories that chunks find follow in the same
way from what each chunk leaves behind, with one matrix over pairs of chunks.

Stabiliser   m_t = max(0, every exponent of its row): none is ever positive, m is never infinite, exp(-m) is at most 1.
             It hangs on no later token, and as no m changes a result, it has no gradient.
Accuracy     d is summed over the tokens between s and t alone, not a difference of sums from the beginning. Where gates
             are far open and n . q nearly cancels, h itself is ill conditioned; its direction, which a head's norm
             leaves, is not.
Memory       A is kept for every read, C numbers a token and head, as many as a key of the usual width.
Source       the chunkwise form of NX-AI's mlstm_kernels. Changed: documents are masks, and m is bounded below by 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.chunks import chunks, documents
from positronic.kernels.mlstm.reference import Cell

__all__ = ["CHUNK", "ChunkContext", "floored_chunked", "read_chunked", "write_chunked"]

CHUNK = 64
"""Tokens a chunk."""


class ChunkContext(NamedTuple):
    """n chunks of tokens, and the memory that each of them finds."""

    k: Tensor
    """(B, n, H, C, K)"""
    v: Tensor
    """(B, n, H, C, V)"""
    weights: Tensor
    """(B, n, H, C, C): A."""
    carried: Tensor
    """(B, n, H, C): a."""
    floor: Tensor
    """(B, n, H, C): exp(-m)."""
    c_found: Tensor
    """(B, n, H, V, K): C_0."""
    n_found: Tensor
    """(B, n, H, K): n_0."""


def write_chunked(
    k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, cell: Cell, fresh: Tensor, chunk: int = CHUNK
) -> tuple[ChunkContext, Cell]:
    """The same memory as by `write_reference`, kept for `read_chunked`."""
    size = min(chunk, k.shape[1])
    begun, still = documents(fresh, size)
    k, v = (chunks(x, size).transpose(2, 3).contiguous() for x in (k, v))
    log_i, log_f = (chunks(x, size, filling).mT for x, filling in ((log_i, -torch.inf), (log_f, 0.0)))  # (B, n, H, C)
    decay = _between(log_f)
    since = decay[..., 0] + log_f[..., :1]
    same = begun[..., :, None] == begun[..., None, :]
    exponent = (decay + log_i[..., None, :]).masked_fill(~same.tril()[:, :, None], -torch.inf)
    found = _chain(since[..., -1], begun[..., -1], _left(k, v, exponent[..., -1, :]), cell)
    c_found, n_found, m_found = (x[:, :-1] for x in found)

    carry = (since + m_found[..., None]).masked_fill(~still[:, :, None], -torch.inf)
    m = _stabiliser(torch.cat([exponent, carry[..., None]], -1))
    context = ChunkContext(k, v, (exponent - m[..., None]).exp(), (carry - m).exp(), (-m).exp(), c_found, n_found)
    return context, Cell(*(x[:, -1] for x in found))


def read_chunked(q: Tensor, context: ChunkContext) -> Tensor:
    """What queries find, h (B, T, H, V)."""
    tokens, (q, scores) = q.shape[1], _scores(q, context)
    said = scores @ context.v + context.carried[..., None] * (q @ context.c_found.mT)
    h = said / torch.maximum(_normaliser(q, scores, context), context.floor)[..., None]
    return h.transpose(2, 3).flatten(1, 2)[:, :tokens]


def floored_chunked(q: Tensor, context: ChunkContext) -> Tensor:
    """(B, T, H) bool: where what is found is divided by the floor."""
    tokens, (q, scores) = q.shape[1], _scores(q, context)
    return (_normaliser(q, scores, context) < context.floor).mT.flatten(1, 2)[:, :tokens]


def _scores(q: Tensor, context: ChunkContext) -> tuple[Tensor, Tensor]:
    """Queries in chunks, (B, n, H, C, K), and their products with the chunk's keys, weighed: (B, n, H, C, C)."""
    q = chunks(q, context.k.shape[3]).transpose(2, 3).contiguous()
    return q, (q @ context.k.mT) * context.weights


def _normaliser(q: Tensor, scores: Tensor, context: ChunkContext) -> Tensor:
    """(B, n, H, C): |n . q|."""
    return (scores.sum(-1) + context.carried * (q @ context.n_found[..., None])[..., 0]).abs()


def _left(k: Tensor, v: Tensor, exponent: Tensor) -> Cell:
    """What each chunk would leave in an empty memory; exponent (B, n, H, C) of what its tokens wrote, at its end."""
    m = _stabiliser(exponent)
    weights = (exponent - m[..., None]).exp()[..., None]
    return Cell((weights * v).mT @ k, (weights * k).sum(-2), m)


def _chain(log_f: Tensor, begun: Tensor, left: Cell, cell: Cell) -> Cell:
    """The memory before each of n chunks and after the last: (B, n+1, ...).

    log_f (B, n, H) over a whole chunk; begun (B, n) documents so far at its end.
    """
    c, n, m = (torch.cat([first[:, None], x], 1) for first, x in zip(cell, left, strict=True))
    decay = _between(F.pad(log_f, (0, 0, 1, 0)).mT)  # (B, H, n+1, n+1)
    begun = F.pad(begun, (1, 0))
    same = begun[:, :, None] == begun[:, None, :]
    exponent = (decay + m.mT[..., None, :]).masked_fill(~same.tril()[:, None], -torch.inf)
    m = _stabiliser(exponent)
    weights = (exponent - m[..., None]).exp()
    c = torch.einsum("bhij,bjhvk->bihvk", weights, c)
    return Cell(c, torch.einsum("bhij,bjhk->bihk", weights, n), m.mT)


def _between(log_f: Tensor) -> Tensor:
    """(..., C) -> (..., C, C): the sum over the tokens behind s up to t, in row t and column s; 0 where s >= t."""
    upto = torch.ones(log_f.shape[-1], log_f.shape[-1], dtype=log_f.dtype, device=log_f.device).tril()
    return upto @ (log_f[..., None] * upto.tril(-1))


def _stabiliser(exponent: Tensor) -> Tensor:
    """(..., C) -> (...): the largest of a row, at least 0."""
    return exponent.detach().amax(-1).clamp(min=0.0)
