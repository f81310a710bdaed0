"""The triangle inequality among tokens, which a distance between queries and keys may break.

    D(a, b)  = |q_a - k_b|, of scaled and unrotated vectors; the angle between them where scores go by angle
    excess   = relu(D(a, c) - D(a, b) - D(b, c))            for `n` random triples of distinct tokens a row and head
    loss     = mean(excess^2) of each row

A distance on one set never breaks it; here every token has two images, q and k, and the excess at b is at most
|q_b - k_b|. Tied projections make it 0.

Which triples a row gets follows from its tokens by counting through a hash: the same row gets the same triples beside
any other rows, on any device, in a resumed run and under any split of the batch; other rows get others.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Triangles", "excesses", "triangles", "triples"]

BITS = 2**31 - 1
FIRST, SECOND, STRIDE = 0x45D9F3B, 0x119DE1F3, 0x3C6EF372
"""Odd factors below 2^29 and a stride: products of them with 31 bits fit into int64 without wrapping."""
EPSILON = 1e-12
NEAR_ONE = 1 - 1e-6


class Triangles(NamedTuple):
    excess: Tensor
    """(B, H, n), 0 where the inequality holds."""
    loss: Tensor
    """(B,)"""


def triangles(q: Tensor, k: Tensor, tokens: Tensor, valid: Tensor | None, n: int, angle: bool = False) -> Triangles:
    """q (B, H, T, K), k (B, G, T, K), tokens and valid (B, T); rows of less than three real tokens count as 0."""
    places, real = triples(tokens, valid, q.shape[1], n)
    excess = excesses(q, k, places, angle) * (real >= 3)[:, None, None]
    return Triangles(excess, excess.square().mean((1, 2)))


def excesses(q: Tensor, k: Tensor, places: Tensor, angle: bool = False) -> Tensor:
    """(B, H, n): by how much each triple of places (B, H, n, 3) breaks the inequality."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    a, b, c = (places[..., i, None].expand(-1, -1, -1, q.shape[-1]) for i in range(3))
    q_a, q_b, k_b, k_c = q.gather(2, a), q.gather(2, b), k.gather(2, b), k.gather(2, c)
    apart = _angle if angle else _distance
    return torch.relu(apart(q_a, k_c) - apart(q_a, k_b) - apart(q_b, k_c))


def triples(tokens: Tensor, valid: Tensor | None, heads: int, n: int) -> tuple[Tensor, Tensor]:
    """Places (B, heads, n, 3) of distinct real tokens, and the number of real tokens (B,)."""
    rows, length = tokens.shape
    real = torch.ones_like(tokens) if valid is None else valid.long()
    count = real.sum(1)
    order = real.cumsum(1) * real  # 1, 2, .. at real tokens
    key = (_mix(tokens * STRIDE + order) * real).sum(1)  # (B,)
    # Hashed, since Inductor would fold places * STRIDE into 32 bits, which overflow.
    counter = _mix(torch.arange(heads * n * 3, device=tokens.device))
    drawn = _mix(key[:, None] + counter).view(rows, heads, n, 3)
    size = count.clamp(min=3)[:, None, None]
    a, b, c = drawn[..., 0] % size, drawn[..., 1] % (size - 1), drawn[..., 2] % (size - 2)
    b = b + (b >= a)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    c = c + (c >= low)
    c = c + (c >= high)
    places = torch.stack([a, b, c], -1).clamp(max=length - 1)
    if valid is None:
        return places, count
    real_first = real.argsort(dim=1, descending=True, stable=True)  # (B, T)
    return real_first.gather(1, places.flatten(1)).view_as(places), count


def _mix(x: Tensor) -> Tensor:
    """int64 -> 31 bits that look random."""
    x = x & BITS
    x = ((x ^ (x >> 16)) * FIRST) & BITS
    x = ((x ^ (x >> 15)) * SECOND) & BITS
    return x ^ (x >> 16)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y).square().sum(-1) + EPSILON).sqrt()


def _angle(x: Tensor, y: Tensor) -> Tensor:
    return torch.arccos((x * y).sum(-1).clamp(-NEAR_ONE, NEAR_ONE))
