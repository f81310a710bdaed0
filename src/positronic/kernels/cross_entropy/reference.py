"""Cross entropy with z-loss of some targets, and its gradient, by their definition.

    L = sum_n m_n (lse_n - z_n[y_n] + c lse_n^2) scale            lse_n = log sum_w exp z_n[w],  float32
    dL/dz_n = m_n ((1 + 2 c lse_n) softmax(z_n) - onehot(y_n)) scale

Shapes   logits z (n, W); targets y (n,) int64; mask m (n,) bool, 1 where the target counts, or its float weight.
Source   z-loss: Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, section 5.
"""

import torch
from torch import Tensor

__all__ = ["slice_reference", "sums_reference"]


def slice_reference(z: Tensor, targets: Tensor, mask: Tensor, scale: float, z_loss: float) -> tuple[Tensor, Tensor]:
    """The definition: both sums (2,) and, by autograd, dL/dz (n, W) in the dtype of z."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        sums = sums_reference(z, targets, mask)
        (dz,) = torch.autograd.grad((sums[0] + z_loss * sums[1]) * scale, z)
    return sums.detach(), dz


def sums_reference(z: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """(2,): the sum of m_n (lse_n - z_n[y_n]), and of m_n lse_n^2."""
    z = z.float()
    lse = z.logsumexp(-1)
    nats = (lse - z.gather(-1, targets[:, None])[:, 0]) * mask
    return torch.stack([nats.sum(), (lse.square() * mask).sum()])
