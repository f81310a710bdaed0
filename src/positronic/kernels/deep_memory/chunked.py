"""The same with all tokens of a chunk at once: its gradients are all at M_c, so that they only have to be weighed.

With r_j = prod_{l>j} (1 - alpha_l) and P_ij = prod_{j<l<=i} eta_l, of a chunk's tokens that are written,

    M = r_0 M_c + g_0 S - sum_j theta_j g_j grad_j        g_j = sum_{i>=j} r_i P_ij = r_j + eta_{j+1} g_{j+1}
    S = h_0 S - sum_j theta_j h_j grad_j                  h_j = prod_{l>j} eta_l

where index 0 stands before the first token and r_0 is no summand of g_0. Both sums are one product of (F, C) and
(C, 2 K) for each matrix. r, g and h follow in log2(C) rounds from factors between 0 and 1: nothing is divided, nothing
cancels. What does not depend on the weights is computed for all chunks at once. A token that is not written has
theta = 0, eta = 1, alpha = 0 and no r_i in g: where none is written, the memory stays to the bit.

float32: 1e-5 of the definition, relative to the largest weight.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Surprise", "Weighed", "both_ways", "in_turn", "recall_together", "surprised", "weigh"]


class Weighed(NamedTuple):
    """What n chunks ask of a memory, and how much each token and what was before them counts."""

    k: Tensor
    """(B, n, H, C, K)"""
    v: Tensor
    weighs: Tensor
    """(B, n, H, C, 2) -theta (g, h)."""
    remains: Tensor
    """(B, n, H) r_0."""
    carries: Tensor
    """(B, n, H, 2) g_0 and h_0."""
    written: Tensor
    """(B, n, H) bool: whether anything is written."""
    anew: Tensor | None
    """(B, n) bool."""


class Surprise(NamedTuple):
    """What tokens expect (..., C, F or K), and their gradients: grad W_1 = d k^T, grad W_2 = e a^T."""

    a: Tensor
    e: Tensor
    d: Tensor
    back: Tensor
    """W_2^T e."""
    slope: Tensor
    """silu'(z)"""
    sigmoid: Tensor


def recall_together(weights: Tensor, q: Tensor) -> Tensor:
    """M(q) for tokens that share weights: (..., 2, F, K), q (..., T, K) -> (..., T, K)."""
    first, second = weights.unbind(-3)
    return F.silu(q @ first.mT) @ second


def weigh(k: Tensor, v: Tensor, gates: Tensor, anew: Tensor | None) -> Weighed:
    """What does not depend on the weights, of all chunks."""
    theta, eta, alpha, written = gates.permute(4, 0, 1, 3, 2)  # (B, n, H, C) each
    wrote = written > 0
    theta, eta, stays = (torch.where(wrote, x, still) for x, still in ((theta, 0.0), (eta, 1.0), (1 - alpha, 1.0)))
    r = _product_of_later(stays)
    g, h, reach = torch.where(wrote, r, 0.0), _shifted(eta, 1, 1.0), 1
    while reach < g.shape[-1]:
        g, h = torch.addcmul(g, h, _shifted(g, reach, 0.0)), h * _shifted(h, reach, 1.0)
        reach *= 2
    both = torch.stack([g, h], -1)
    remains, carries = stays[..., 0] * r[..., 0], eta[..., :1] * both[..., 0, :]
    if anew is not None:
        carries = carries.masked_fill(anew[..., None, None], 0.0)  # what S was is forgotten
    weighs = -theta[..., None] * both
    k, v = k.transpose(2, 3).contiguous(), v.transpose(2, 3).contiguous()
    return Weighed(k, v, weighs, remains, carries, wrote.any(-1), anew)


def in_turn(chunks: Weighed) -> list[Weighed]:
    """One after another, (B, H, ...) each."""
    begins = [None] * chunks.k.shape[1] if chunks.anew is None else chunks.anew.unbind(1)
    parts = zip(*(part.unbind(1) for part in chunks[:-1]), begins, strict=True)
    return [Weighed(*part) for part in parts]


def surprised(weights: Tensor, k: Tensor, v: Tensor) -> Surprise:
    """weights (..., 2, F, K); k, v (..., C, K)."""
    first, second = weights.unbind(-3)
    z = k @ first.mT
    sigmoid = z.sigmoid()
    a = z * sigmoid
    e = a @ second - v
    back, slope = e @ second.mT, torch.addcmul(sigmoid, a, 1 - sigmoid)
    return Surprise(a, e, back * slope, back, slope, sigmoid)


def both_ways(x: Tensor, weighs: Tensor) -> Tensor:
    """x (..., C, K) times each of two weights (..., C, 2): (..., C, 2 K)."""
    return (weighs[..., None] * x[..., None, :]).flatten(-2)


def _product_of_later(x: Tensor) -> Tensor:
    """(..., C): of what stands behind each, 1 behind the last."""
    product, reach = _shifted(x, 1, 1.0), 1
    while reach < x.shape[-1]:
        product = product * _shifted(product, reach, 1.0)
        reach *= 2
    return product


def _shifted(x: Tensor, by: int, filled: float) -> Tensor:
    """What stands so many places behind each."""
    return F.pad(x[..., by:], (0, by), value=filled)
