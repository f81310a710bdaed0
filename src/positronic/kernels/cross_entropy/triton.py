"""Cross entropy of one slice on a GPU: logits are read from memory once and their gradient is written once.

One program a row: a running maximum and sum give lse_n; a second pass, from cache, writes dL/dz_n. All arithmetic is
float32 whatever the logits are: 1e-5 of the definition for float32 logits, the gradient's rounding for bfloat16 ones.
"""

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

__all__ = ["slice_kernel"]

BLOCK, WARPS = 4096, 8


def slice_kernel(z: Tensor, targets: Tensor, mask: Tensor, scale: float, z_loss: float) -> tuple[Tensor, Tensor]:
    """Logits (n, W) -> sums of nats and of lse^2 over the mask (2,), and dL/dz (n, W)."""
    z = z.contiguous()
    n, width = z.shape
    dz, terms = torch.empty_like(z), torch.empty(2, n, device=z.device)
    with torch.cuda.device_of(z):
        _rows[(n,)](z, targets, mask, dz, terms, n, width, scale, z_loss, BLOCK=BLOCK, num_warps=WARPS)
    return terms.sum(1), dz


@triton.jit
def _rows(z_ptr, targets_ptr, mask_ptr, dz_ptr, terms_ptr, n, width, scale, z_loss, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * width
    dz_ptr += row * width
    counted = tl.load(mask_ptr + row).to(tl.float32)
    target = tl.load(targets_ptr + row)
    largest = tl.full((), -float("inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, width, BLOCK):
        w = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + w, mask=w < width, other=-float("inf")).to(tl.float32)
        larger = tl.maximum(largest, tl.max(z, 0))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(z - larger), 0)
        largest = larger
    lse = largest + tl.log(total)
    nats = lse - tl.load(z_ptr + target).to(tl.float32)
    tl.store(terms_ptr + row, nats * counted)
    tl.store(terms_ptr + n + row, lse * lse * counted)
    factor = counted * scale
    softmax_factor = factor * (1 + 2 * z_loss * lse)
    for start in range(0, width, BLOCK):
        w = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + w, mask=w < width, other=-float("inf")).to(tl.float32)
        dz = tl.exp(z - lse) * softmax_factor - tl.where(w == target, factor, 0.0)
        tl.store(dz_ptr + w, dz, mask=w < width)
