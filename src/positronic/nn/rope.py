"""Rotary positions on a part of each head.

The last `rope_dims` of K dimensions are rotated in pairs (i, i + rope_dims / 2) by position * base^(-2i / rope_dims);
the dimensions before them carry no position. Scores then depend on position differences alone.

    stretched    f -> f ((1 - s) / factor + s),  s = (turns - slow_turns) / (fast_turns - slow_turns), kept in [0, 1]

where `turns` is how often f turns in the `trained` positions: pairs that turn fast stay, slow ones turn as much slower
as the context has grown.

Source   Su et al. 2021, "RoFormer", arXiv 2104.09864; the partial form as in GPT-NeoX, the stretched one as in
         Llama 3.1 (there "llama3": low_freq_factor and high_freq_factor are slow_turns and fast_turns).
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from positronic.config import AtMost, Config
from positronic.errors import ConfigError

__all__ = ["StretchConfig", "rotate", "rotation", "signed"]


@dataclass(frozen=True, kw_only=True)
class StretchConfig(Config, kind="rope_stretch"):
    """Slow rotations made slower, for contexts longer than a model first saw."""

    factor: float = 8.0
    """How many times slower the slowest pairs turn."""
    slow_turns: float = 1.0
    """Pairs that turn at most this often in `trained` positions are slowed by all of `factor`."""
    fast_turns: float = 4.0
    """Pairs that turn at least this often stay as they are."""
    trained: Annotated[int, AtMost(2**24)] = 8192
    """Positions that turns are counted in: those of the model before it was stretched."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 1 or not 0 < self.slow_turns < self.fast_turns or self.trained < 1:
            raise ConfigError(
                f"rope_stretch has factor {self.factor}, slow_turns {self.slow_turns}, fast_turns {self.fast_turns} "
                f"and trained {self.trained}; use a factor and trained of 1 or more, and 0 < slow_turns < fast_turns."
            )

    def stretched(self, frequencies: Tensor) -> Tensor:
        """Radians a position, of each pair."""
        turns = frequencies * (self.trained / (2 * math.pi))
        s = ((turns - self.slow_turns) / (self.fast_turns - self.slow_turns)).clamp(0, 1)
        return frequencies * ((1 - s) / self.factor + s)


def rotation(
    positions: Tensor, rope_dims: int, base: float, stretch: StretchConfig | None = None, far: bool = False
) -> tuple[Tensor, Tensor]:
    """cos and sin (B, 1, T, rope_dims) of every position (B, T), in float32: bfloat16 loses integers above 256.

    The angles of a pair's dimensions are those of -f and f. far: they are found in float64, where a device has it; in
    float32 they are off by a quarter at position 4,000,000.
    """
    precision = torch.float64 if far and positions.device.type != "mps" else torch.float32
    exponents = torch.arange(0, rope_dims, 2, dtype=precision, device=positions.device) / max(rope_dims, 1)
    frequencies = base**-exponents
    if stretch is not None:
        frequencies = stretch.stretched(frequencies)
    angles = positions[:, None, :, None].to(precision) * signed(frequencies)
    return angles.cos().float(), angles.sin().float()


def signed(frequencies: Tensor) -> Tensor:
    """Of pairs (..., pairs), for both dimensions of each (..., 2 pairs): a turns by -f b, b by f a."""
    return torch.cat([-frequencies, frequencies], -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, K), its last dimensions turned by the angles of `rotation`."""
    turning = cos.shape[-1]
    if turning in (0, x.shape[-1]):
        return _turned(x, cos, sin) if turning else x
    still, x = x.split([x.shape[-1] - turning, turning], dim=-1)
    return torch.cat([still, _turned(x, cos, sin)], dim=-1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a cos - b sin, b cos + a sin) of the halves a and b of each head."""
    wide = x.float()
    return torch.addcmul(wide * cos, wide.roll(cos.shape[-1] // 2, -1), sin).to(x.dtype)
