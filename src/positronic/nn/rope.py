"""Rotary positions on a part of each head.

The last `rope_dims` of K dimensions are rotated in pairs (i, i + rope_dims / 2) by position * base^(-2i / rope_dims);
the dimensions before them carry no position. Scores then depend on position differences alone.

Source   Su et al. 2021, "RoFormer", arXiv 2104.09864; the partial form as in GPT-NeoX.
"""

import torch
from torch import Tensor, nn

from positronic.nn import init

__all__ = ["Rotary"]


class Rotary(nn.Module):
    """x (B, H, T, K) -> the same, turned. Angles are float32: bfloat16 positions above 256 lose integers."""

    frequencies: Tensor

    def __init__(self, rope_dims: int, base: float):
        super().__init__()
        self.rope_dims, self.base = rope_dims, base
        self.register_buffer("frequencies", torch.empty(rope_dims // 2, dtype=torch.float32), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        exponents = torch.arange(0, self.rope_dims, 2, dtype=torch.float64) / max(self.rope_dims, 1)
        init.copy_(self.frequencies, (self.base**-exponents).float())

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (B, 1, T, rope_dims / 2), float32."""
        angle = positions[:, None, :, None].float() * self.frequencies
        return angle.cos(), angle.sin()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if not self.rope_dims:
            return x
        still, turning = x.split([x.shape[-1] - self.rope_dims, self.rope_dims], dim=-1)
        a, b = turning.float().chunk(2, dim=-1)
        return torch.cat([still, (a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype)], dim=-1)
