"""Scores of metric heads: by which distance, or angle, or product, queries find keys.

    l2           z = -(alpha / sqrt(K)) |q - k|^2
    maha_diag    z = -(alpha / sqrt(K)) sum_c m_c (q_c - k_c)^2          m_c = exp(raw), one for each rotary pair
    cosine       z = alpha q . k / (max(|q|, 1e-6) max(|k|, 1e-6))
    dot          z = alpha q . k / sqrt(K)

Each is a map of vectors and a slope: with x' = sqrt(m) x, x / |x| or x itself, z = alpha slope (2 q'.k' - |k'|^2) up to
what is constant in the keys, or alpha slope 2 q'.k'. The maps commute with rotations of pairs, which is why m is tied
inside them: a metric that did not would make scores depend on absolute positions.

Shapes   x (B, H or G, T, K) -> x' likewise, float32; alpha (H,), m (G, K / 2): a query has its key's m.
Init     alpha 1 (10 for cosine) within [1e-3, 50] (100); m 1, so that maha_diag begins as l2, to the bit.
Source   squared distance: Kim et al. 2021, arXiv 2006.04710; diagonal metric: Nielsen et al. 2024, "Elliptical
         attention", arXiv 2406.13770; bounded cosine: Liu et al. 2021, "Swin Transformer V2", arXiv 2111.09883.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from positronic.config import Config
from positronic.nn import init

__all__ = ["CosineConfig", "DotConfig", "L2Config", "MahaDiagConfig", "Score", "ScoreConfig"]

SHORTEST = 1e-6
LEAST_ALPHA = 1e-3


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Config):
    """What every score says about itself."""

    distance: ClassVar[bool] = True
    """Whether the length of a key counts."""
    unit: ClassVar[bool] = False
    """Whether vectors are brought to length 1."""
    diagonal: ClassVar[bool] = False
    """Whether each rotary pair has a weight."""
    first_alpha: ClassVar[float] = 1.0
    most_alpha: ClassVar[float] = 50.0

    @property
    def metric(self) -> bool:
        """Whether there is a distance behind it at all."""
        return self.distance or self.unit

    def slope(self, width: int) -> float:
        """Of the score over 2 q'.k', at alpha 1."""
        return 0.5 if self.unit else (1 if self.distance else 0.5) / math.sqrt(width)

    def build(self, heads: int, groups: int, width: int) -> "Score":
        """For `heads` heads of queries and `groups` of keys, all of that width."""
        return Score(self, heads, groups, width)


@dataclass(frozen=True, kw_only=True)
class L2Config(ScoreConfig, kind="l2"):
    """Squared distance."""


@dataclass(frozen=True, kw_only=True)
class MahaDiagConfig(ScoreConfig, kind="maha_diag"):
    """Squared distance under a learned diagonal metric."""

    diagonal: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class CosineConfig(ScoreConfig, kind="cosine"):
    """Cosine of the angle."""

    distance: ClassVar[bool] = False
    unit: ClassVar[bool] = True
    first_alpha: ClassVar[float] = 10.0
    most_alpha: ClassVar[float] = 100.0


@dataclass(frozen=True, kw_only=True)
class DotConfig(ScoreConfig, kind="dot"):
    """Dot product: no distance, for comparison."""

    distance: ClassVar[bool] = False


class Score(nn.Module):
    """x (B, heads, T, K) of queries or keys -> x', float32; `alpha` and `m` are those of the heads.

    What reads several vectors works `root` out once and hands it in.
    """

    def __init__(self, config: ScoreConfig, heads: int, groups: int, width: int):
        super().__init__()
        self.config = config
        self.log_alpha = nn.Parameter(torch.empty(heads))
        self.log_m = nn.Parameter(torch.empty(groups, width // 2)) if config.diagonal else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.log_alpha, math.log(self.config.first_alpha))
        if self.log_m is not None:
            init.zeros_(self.log_m)

    @property
    def alpha(self) -> Tensor:
        """(H,) float32."""
        return self.log_alpha.float().exp().clamp(LEAST_ALPHA, self.config.most_alpha)

    def root(self) -> Tensor | None:
        """sqrt(m) of both dimensions of each pair (G, K), where there is an m."""
        return None if self.log_m is None else (0.5 * self.log_m.float()).exp().repeat(1, 2)

    def forward(self, x: Tensor, root: Tensor | None = None) -> Tensor:
        x, root = x.float(), self.root() if root is None else root
        if self.config.unit:
            x = x / x.norm(dim=-1, keepdim=True).clamp(min=SHORTEST)
        if root is not None:
            if len(root) not in (1, x.shape[1]):
                root = root.repeat_interleave(x.shape[1] // len(root), 0)
            x = x * root[:, None]
        return x

    def offset(self, k: Tensor, origin: Tensor, root: Tensor | None = None) -> Tensor:
        """What lies between keys (B, G, T, K) and an origin (G, K), in scaled vectors."""
        there = origin.float()[:, None]
        return self(k, root) - there if self.config.unit else self(k.float() - there, root)
