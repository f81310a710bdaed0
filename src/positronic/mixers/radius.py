"""Pruning by a radius: keys that are too far away lose their weight.

    ball    pr_s = -min(beta relu(|k'_s - o'|^2 - r^2), 3e4)        added to every score of s; `hard`: -3e4 below -20
    pair    query t sees key s if |q'_t - k'_s| <= r

The ball has a learned origin and radius for each head of keys and looks at unrotated keys, so that a key's penalty
depends on nothing but the key and is worked out once, when the key is written; training and decoding use the same. The
pair's radius is a given number and needs the scores themselves, so it never runs in the library's fused kernels.

Either may leave a query with nothing to see: the mixer then keeps a sink, a key of value 0 whose logit is learned.

Shapes   k (B, G, T, K) -> pr (B, G, T), float32.
Init     o = 0, r = 8: keys begin at a length of about 4, so nothing is pruned.
Source   learned origins and radii are of the published model's description; the soft penalty is ours and is finite
         everywhere, since an infinite one turns a zero beside it into NaN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.mixers.metric_scores import Score
from positronic.nn import init

__all__ = ["Ball", "BallConfig", "PairConfig", "PruneConfig"]

LARGEST_PENALTY = 3e4
REMOVED = 20.0
"""Penalty behind which a key weighs less than 2e-9 of one without: `hard` removes it."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig(Config):
    """A way to prune."""

    radius: float = 8.0
    """Distance up to which keys keep their weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.radius > 0:
            raise ConfigError(
                f"{self.kind}.radius is {self.radius}, within which there is no key at all; use a radius above 0 "
                f"(8 prunes nothing at the start), or leave prune out."
            )


@dataclass(frozen=True, kw_only=True)
class BallConfig(PruneConfig, kind="ball"):
    beta: float = 4.0
    """Penalty of a key for each unit of squared distance beyond the radius."""
    hard: bool = False
    """Remove keys whose penalty is above 20 altogether."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise ConfigError(f"ball.beta is {self.beta}, which prunes nothing; use one above 0 (4 is usual).")

    def build(self, groups: int, width: int) -> "Ball":
        return Ball(self, groups, width)


@dataclass(frozen=True, kw_only=True)
class PairConfig(PruneConfig, kind="pair"):
    """The radius is given, not learned: a threshold has no gradient."""


class Ball(nn.Module):
    def __init__(self, config: BallConfig, groups: int, width: int):
        super().__init__()
        self.config = config
        self.origin = nn.Parameter(torch.empty(groups, width))
        self.radius = nn.Parameter(torch.empty(groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.zeros_(self.origin)
        init.constant_(self.radius, self.config.radius)

    def forward(self, k: Tensor, score: Score, root: Tensor | None = None) -> Tensor:
        """Unrotated keys k (B, G, T, K) -> penalty (B, G, T) <= 0, float32."""
        beyond = score.offset(k, self.origin, root).square().sum(-1) - self.radius.float().square()[:, None]
        penalty = (-self.config.beta * torch.relu(beyond)).clamp(min=-LARGEST_PENALTY)
        return torch.where(penalty < -REMOVED, -LARGEST_PENALTY, penalty) if self.config.hard else penalty
