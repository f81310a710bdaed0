"""A network that learns by heart while it reads: the definition, a loop over tokens.

M(k) = W_2 silu(W_1 k)                                    l(M; k, v) = |M(k) - v|^2 / 2
S_t = eta_t S_{t-1} - theta_t grad l(M_c; k_t, v_t)       M_c: the weights at the beginning of the chunk of C tokens
M_t = (1 - alpha_t) M_{t-1} + S_t                         a token that is not written changes neither

With z = W_1 k, a = silu(z), e = W_2 a - v and d = (W_2^T e) * silu'(z):   grad W_2 = e a^T,   grad W_1 = d k^T.
At the end of a chunk of which something was written,

    dM = M - prod(1 - alpha) M_c        M <- prod(1 - alpha) M_c + c dM,  S <- c S,  c = min(1, trust |M_0| / |dM|)
    W_i <- W_i min(1, cap |W_i,0| / |W_i|)                        |x| = sqrt(sum x^2 + 1e-12), M_0: where memories begin

The first line is what keeps a memory from blowing up on a key that comes again and again; the last is a net below it.

Shapes   n chunks of C tokens, H heads of width K, F units inside: k, v (B, n, C, H, K); gates (B, n, C, H, 4) theta,
         eta, alpha, and 1 where a token is written, else 0; weights, momentum (B, H, 2, F, K), W_1 and then W_2^T.
Cost     14 F K operations a token and head; the chunks come one after another.
Source   Behrouz et al. 2025, "Titans", arXiv 2501.00663, equations 8 to 14, with gradients at the beginning of a chunk
         as there in section 3.2. The trust region and the cap are ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Learned", "Limits", "bounded", "by_head", "gradient", "learn_reference", "recall"]

EPSILON = 1e-12


class Limits(NamedTuple):
    """How far memories may go; for all rows alike, or for each."""

    reach: Tensor
    """(B or 1, H) trust |M_0|: how far a chunk may move the weights."""
    most: Tensor
    """(B or 1, H, 2) cap |W_i,0|: the largest norm of each matrix."""

    @staticmethod
    def of(start: Tensor, trust: float, cap: float) -> "Limits":
        """start (B or 1, H, 2, F, K) M_0."""
        square = start.square().sum((-2, -1))
        return Limits(trust * (square.sum(-1) + EPSILON).sqrt(), cap * (square + EPSILON).sqrt())


class Learned(NamedTuple):
    """What n chunks have made of a memory."""

    weights: Tensor
    """(B, n+1, H, 2, F, K) before the first and after each chunk."""
    momentum: Tensor
    """(B, H, 2, F, K) after the last."""
    share: Tensor
    """(B, n, H) c: what the trust region has left of the chunk's move."""


def learn_reference(
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    anew: Tensor | None,
    weights: Tensor,
    momentum: Tensor,
    start: Tensor,
    trust: float,
    cap: float,
) -> Learned:
    """The definition. anew (B, n) bool: before these chunks a memory begins anew, from start (B or 1, H, 2, F, K) M_0
    and S = 0; None: before none."""
    limits, versions, shares = Limits.of(start, trust, cap), [weights], []
    for c in range(k.shape[1]):
        if anew is not None:
            begins = anew[:, c, None, None, None, None]
            weights, momentum = torch.where(begins, start, weights), momentum.masked_fill(begins, 0.0)
        base, kept = weights, torch.ones_like(gates[:, 0, 0, :, 0])
        for t in range(k.shape[2]):
            theta, eta, alpha, written = gates[:, c, t].unbind(-1)  # (B, H) each
            moved = by_head(eta) * momentum - by_head(theta) * gradient(base, k[:, c, t], v[:, c, t])
            momentum = torch.where(by_head(written) > 0, moved, momentum)
            weights = torch.where(by_head(written) > 0, by_head(1 - alpha) * weights + momentum, weights)
            kept = torch.where(written > 0, (1 - alpha) * kept, kept)
        remains = by_head(kept) * base
        weights, share, _ = bounded(remains, weights - remains, (gates[:, c, ..., 3] > 0).any(1), limits)
        momentum = by_head(share) * momentum
        versions.append(weights)
        shares.append(share)
    return Learned(torch.stack(versions, 1), momentum, torch.stack(shares, 1))


def gradient(weights: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of l for one token of each row: weights (B, H, 2, F, K); k, v (B, H, K) -> (B, H, 2, F, K)."""
    first, second = weights.unbind(2)
    z = (first * k[..., None, :]).sum(-1)  # (B, H, F)
    a, sigmoid = F.silu(z), z.sigmoid()
    e = (second * a[..., None]).sum(-2) - v
    d = (second * e[..., None, :]).sum(-1) * (sigmoid + a * (1 - sigmoid))
    return torch.stack([d[..., None] * k[..., None, :], a[..., None] * e[..., None, :]], 2)


def bounded(remains: Tensor, moved: Tensor, written: Tensor, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """The weights at the end of a chunk, c (B, H), and what the cap has left of each matrix (B, H, 2).

    remains, moved (B, H, 2, F, K): prod(1 - alpha) M_c and dM; written (B, H) bool: whether anything was.
    """
    share = (limits.reach * (moved.square().sum((-3, -2, -1)) + EPSILON).rsqrt()).clamp(max=1.0)
    weights = torch.addcmul(remains, by_head(share), moved)
    shrink = (limits.most * (weights.square().sum((-2, -1)) + EPSILON).rsqrt()).clamp(max=1.0)
    shrink = torch.where(written[..., None], shrink, 1.0)
    return weights * shrink[..., None, None], share, shrink


def recall(weights: Tensor, q: Tensor) -> Tensor:
    """M(q) for each token with weights of its own: (..., 2, F, K), q (..., K) -> (..., K).

    Products and sums: what a token reads keeps its bits beside any other tokens.
    """
    first, second = weights.unbind(-3)
    a = F.silu((first * q[..., None, :]).sum(-1))
    return (second * a[..., None]).sum(-2)


def by_head(x: Tensor) -> Tensor:
    """(B, H) -> (B, H, 1, 1, 1), beside weights."""
    return x[..., None, None, None]
