"""Rotary positions on a part of each head.

The last `rope_dims` of K dimensions are rotated in pairs (i, i + rope_dims / 2) by position * base^(-2i / rope_dims);
the dimensions before them carry no position. Scores then depend on position differences alone.

Source   Su et al. 2021, "RoFormer", arXiv 2104.09864; the partial form as in GPT-NeoX.
"""

import torch
from torch import Tensor

__all__ = ["rotate", "rotation"]


def rotation(positions: Tensor, rope_dims: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin (B, 1, T, rope_dims / 2) of every position (B, T), in float32: bfloat16 loses integers above 256."""
    exponents = torch.arange(0, rope_dims, 2, dtype=torch.float32, device=positions.device) / max(rope_dims, 1)
    angles = positions[:, None, :, None].float() * base**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, K), its last dimensions turned by the angles of `rotation`."""
    turning = 2 * cos.shape[-1]
    still, a, b = x.split([x.shape[-1] - turning, turning // 2, turning // 2], dim=-1)
    a, b = a.float(), b.float()
    return torch.cat([still, (a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype)], dim=-1)
