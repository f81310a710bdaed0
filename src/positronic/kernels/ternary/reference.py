"""Quantisers of weights and activations, and their product in exact integers.

Weights, a group g of consecutive columns of a row, the last one as long as there are columns:

    m = max(scale of |W| in g, 1e-5)     t = clip(rne(W / m), -1, 1)     gamma = float16(m)     W_q = gamma t

where scale is the mean, the median, or the mean over the whole matrix. A group of zeros has gamma = 0. Where a scale
of a matrix that is not 0 is out of float16's range (6.1e-5 to 6e4), all of them stay float32.

Activations, a block b of 64 of a row:

    s = max |x| / 127     q = clip(rne(127 x / max |x|), -127, 127)     x_q = s q          q = s = 0 where max |x| = 0

What is not a number in a block, or not finite, makes all of it not a number.

    y_n = sum over b, ascending, of (gamma_ng s_b) (sum over k in b of t_nk q_bk)          float32; the inner sum exact

Shapes   W, t (..., N, K), gamma (..., N, ceil(K / group)); x, q (..., K), s (..., K / 64); y (..., N).
Source   Ma et al. 2024, "The Era of 1-bit LLMs", arXiv 2402.17764 (mean of sizes, rounding); groups as in the published
         configuration of Chimera. Ties go to 0, as rne(0.5) = 0.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "BLOCK",
    "Levels",
    "Scale",
    "Trits",
    "product_reference",
    "quantised_activations",
    "quantised_weights",
]

Scale = Literal["absmean", "median", "tensor"]
BLOCK = 64
"""Activations of one scale; widths are multiples of it."""
LEAST = 1e-5
"""Of a group's scale."""
HALF = 6.1e-5, 6e4
"""Scales that float16 holds to eleven bits."""
LEVELS = 127.0
SILENT = 1e-30
"""Largest entry of a block below which it is 0: 127 over less than a hundred-millionth of that is no number."""


class Trits(NamedTuple):
    """A matrix of three values."""

    t: Tensor
    """(..., N, K) int8: -1, 0 or 1."""
    gamma: Tensor
    """(..., N, G) float32; what float16 holds, but for a matrix out of its range."""
    group: int
    """Columns of one scale."""

    def weights(self) -> Tensor:
        """W_q (..., N, K)."""
        return spread(self.gamma, self.group, self.t.shape[-1]) * self.t


class Levels(NamedTuple):
    """Rows of 255 levels."""

    q: Tensor
    """(..., K) float32, whole numbers from -127 to 127."""
    s: Tensor
    """(..., K / 64) float32."""

    def values(self) -> Tensor:
        """x_q (..., K)."""
        return (self.q.unflatten(-1, (-1, BLOCK)) * self.s[..., None]).flatten(-2)


def quantised_weights(w: Tensor, group: int = 128, scale: Scale = "absmean") -> Trits:
    """w (..., N, K) in any float; K is a multiple of 64."""
    w = w.detach().float()
    size = w.abs()
    parts = _parts(size, group)
    silent = torch.cat([part.amax(-1) == 0 for part in parts], -1)
    if scale == "tensor":
        found = size.mean((-2, -1), keepdim=True).expand_as(silent)
    else:
        found = torch.cat([part.mean(-1) if scale == "absmean" else part.median(-1).values for part in parts], -1)
    m = found.clamp(min=LEAST)
    t = (w / spread(m, group, w.shape[-1])).round().clamp(-1, 1)
    held = (silent | ((m >= HALF[0]) & (m <= HALF[1]))).flatten(-2).all(-1)[..., None, None]
    gamma = torch.where(held, m.half().float(), m).masked_fill(silent, 0.0)
    return Trits(t.to(torch.int8), gamma, group)


def quantised_activations(x: Tensor) -> Levels:
    """x (..., K) in any float; K is a multiple of 64."""
    blocks = x.detach().float().unflatten(-1, (-1, BLOCK))
    most = blocks.abs().amax(-1, keepdim=True)
    inverse = torch.where(most < SILENT, 0.0, LEVELS / most)
    q = (blocks * inverse).round().clamp(-LEVELS, LEVELS)
    return Levels(q.flatten(-2), torch.where(most < SILENT, 0.0, most / LEVELS)[..., 0])


def product_reference(x: Levels, w: Trits) -> Tensor:
    """y (..., N) of rows x (..., K) and one matrix w (N, K), in the order of the definition."""
    blocks = x.q.shape[-1] // BLOCK
    gammas = w.gamma.repeat_interleave(w.group // BLOCK, -1)[:, :blocks]  # (N, B)
    y = x.s.new_zeros(*x.q.shape[:-1], len(w.t))
    for b, (q, t) in enumerate(zip(x.q.split(BLOCK, -1), w.t.float().split(BLOCK, -1), strict=True)):
        y = y + (q @ t.mT) * (gammas[:, b] * x.s[..., b, None])
    return y


def spread(scales: Tensor, group: int, width: int) -> Tensor:
    """(..., N, G) -> (..., N, K): to each column its own."""
    return scales.repeat_interleave(group, -1)[..., :width]


def _parts(x: Tensor, group: int) -> list[Tensor]:
    """(..., K) -> whole groups (..., G, group), and the last one where it is shorter (..., 1, rest)."""
    whole = x.shape[-1] // group * group
    found = [x[..., :whole].unflatten(-1, (-1, group))] if whole else []
    return [*found, x[..., None, whole:]] if whole < x.shape[-1] else found
