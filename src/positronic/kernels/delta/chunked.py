"""Gated delta rule in chunks of C tokens: products of small matrices. 1e-5 of the definition in float32.

With D_ij = exp(sum of log_decay over j < l <= i) for j <= i of one document, else 0, and d_i = exp(sum over l <= i)
until the chunk's first new document begins, then 0; S the memory before the chunk and K, V, Q its tokens as rows:

    (I + A) F = diag(beta) V     (I + A) G = -diag(beta d) K     A = strictly lower part of diag(beta) (K K^T * D)
    U = F + G S^T                                                what each token writes along its key
    S <- S (d_C I + G^T K') + F^T K'                             K' = diag(r) K, r_j = D_Cj: what lasts of j
    o = diag(d) Q S^T + (Q K^T * D) U

F and G are solved by forward substitution in all chunks before any S is known. No inverse is formed: equal keys written
strongly would make it a difference of huge numbers. Only the third line runs from chunk to chunk, one product each.
Log decays are summed over the tokens between two, not subtracted: where a head forgets fast, differences of sums over a
chunk of 256 were thirty times as far off. No exponent is positive. Reading is differentiated by autograd, the rest by
`adjoint`.

Cost     8 K (C + K) + 2 C^2 operations a head and token. On one CPU core chunks of 32 and 64 train alike, and 128 take
         a third longer; longer chunks leave fewer steps in series.
Memory   matrices of C numbers a head and token, which autograd keeps.
Source   arXiv 2412.06464, section 3.3, and 2406.06484 for the rule without decay. There every chunk forms its inverse.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from positronic.kernels.chunks import chunks, documents
from positronic.kernels.delta.adjoint import run_chunks

__all__ = ["CHUNK", "Chunks", "read_chunked", "write_chunked"]

CHUNK = 64
LEAST = -60.0
"""Smallest logarithm of a decay: with numbers next to the smallest that there are, CPUs are a hundred times slower."""


class Chunks(NamedTuple):
    """What n chunks leave to read."""

    k: Tensor
    """(B, n, H, C, K)"""
    u: Tensor
    """(B, n, H, C, V): what each token writes."""
    kept: Tensor
    """(B, n, H, C, C): D."""
    since: Tensor
    """(B, n, H, C): d."""
    before: Tensor
    """(B, n, H, V, K): S before each chunk."""


def write_chunked(
    k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, memory: Tensor, fresh: Tensor, size: int = CHUNK
) -> tuple[Chunks, Tensor]:
    """The same as `write_reference`, with another context."""
    size = min(size, k.shape[1])
    kept, since, until = _decays(_by_head(log_decay[..., None], size)[..., 0], fresh)
    k, v, beta = (_by_head(x, size).contiguous() for x in (k, v, beta[..., None]))
    u, before, after = run_chunks(k, v, beta, kept, since, until, memory)
    return Chunks(k, u, kept, since, before), after


def read_chunked(q: Tensor, context: Chunks) -> Tensor:
    """o (B, T, H, V), as `read_reference`."""
    k, u, kept, since, before = context
    tokens, q = q.shape[1], _by_head(q, k.shape[-2]).contiguous()
    o = (since[..., None] * q) @ before.mT + ((q @ k.mT) * kept) @ u
    return o.transpose(2, 3).flatten(1, 2)[:, :tokens]


def _decays(log_decay: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D (B, n, H, C, C), d and the last row of D (B, n, H, C); log_decay (B, n, H, C), fresh (B, T)."""
    size = log_decay.shape[-1]
    begun, still = documents(fresh, size)
    upto = torch.ones(size, size, dtype=log_decay.dtype, device=log_decay.device).tril()
    later = upto.tril(-1)
    same = upto.bool() & (begun[..., :, None] == begun[..., None, :])
    kept = _decayed((upto * log_decay[..., None, :]) @ later, same)  # sums over j < l <= i
    return kept, _decayed(log_decay @ upto.mT, still), _decayed(log_decay @ later, same[..., -1, :])


def _decayed(exponent: Tensor, kept: Tensor) -> Tensor:
    """exp(exponent), (B, n, H, ...), and 0 where not kept, (B, n, ...)."""
    return exponent.clamp(min=LEAST).exp() * kept[:, :, None]


def _by_head(x: Tensor, size: int) -> Tensor:
    """(B, T, H, m) -> (B, n, H, C, m)."""
    return chunks(x, size).transpose(2, 3)
