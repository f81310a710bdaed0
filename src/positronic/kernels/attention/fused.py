"""Attention through the library's fused kernels: 1e-5 of the definition in float32, never a (T, S) matrix in memory.

Whole rows in training run causal, cut at document boundaries where there are any; on CUDA the cut runs inside a
compiled block-sparse kernel, so that documents cost less, not more; only there can scores be capped. Cached calls run
under an explicit mask, with the queries of a group laid side by side, so that keys and values are never copied per
head.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from positronic.kernels.registry import kinds_asked
from positronic.kernels.soft_clamp import soft_clamp

__all__ = ["Documents", "causal_attention", "masked_attention", "sunk_attention"]

BLOCK = 128
"""Tokens a side of a block in the block-sparse kernel; rows are padded to a multiple of it."""
NARROWEST = 16
"""Width of a head from which on that kernel takes it; narrower ones are padded."""


@dataclass(frozen=True)
class Documents:
    """Which tokens of whole rows see each other, worked out once a call: one of the two forms."""

    allowed: Tensor | None = None
    """(B, 1, T, T) bool: s is at or before t, and in the same document."""
    blocks: Any = None
    """The same as a block mask, where the compiled kernel runs: training on CUDA."""
    segments: Tensor | None = None
    """(B, T) document numbers beside a block mask, for what no block-sparse kernel computes."""

    def mask(self) -> Tensor:
        """`allowed`, whichever form this is."""
        if self.allowed is not None:
            return self.allowed
        assert self.segments is not None, "a block mask comes with what it was made of"
        return _visible(self.segments)

    @staticmethod
    def of(segments: Tensor | None) -> "Documents | None":
        """The layout of (B, T) document numbers, -1 at padding; None: one document a row."""
        if segments is None:
            return None
        rows, tokens = segments.shape
        if segments.device.type == "cpu" and bool((segments == segments[:, :1]).all()):
            return None  # no document ends inside a row: causal attention skips half the work that a mask does
        if not segments.is_cuda or not torch.is_grad_enabled() or "torch" not in kinds_asked("causal_attention"):
            return Documents(_visible(segments))

        whole = F.pad(segments, (0, -tokens % BLOCK), value=-1)
        padded = whole.shape[1]

        def visible(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return (t >= s) & (whole[b, t] == whole[b, s])

        blocks = _compiled_block_mask()(visible, rows, None, padded, padded, BLOCK_SIZE=BLOCK)
        return Documents(blocks=blocks, segments=segments)


def _visible(segments: Tensor) -> Tensor:
    """(B, T) -> (B, 1, T, T) bool."""
    return (segments[:, None, :, None] == segments[:, None, None, :]).tril()


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents | None,
    cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """Whole rows: q (B, H, T, K), k and v (B, G, T, K) -> (B, H, T, K). A cap needs a block mask."""
    grouped = q.shape[1] != k.shape[1]
    assert cap is None or (documents is not None and documents.blocks is not None), "the library has no hook here"
    if documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped, scale=scale)
    if documents.blocks is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=documents.allowed, enable_gqa=grouped, scale=scale)

    def capped(score: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return score if cap is None else soft_clamp(score, cap)

    tokens, width, change = q.shape[2], v.shape[3], None if cap is None else capped
    scale = q.shape[3] ** -0.5 if scale is None else scale
    q, k, v = _whole_blocks(q, k, v)
    o = _flex()(q, k, v, score_mod=change, block_mask=documents.blocks, enable_gqa=grouped, scale=scale)
    return o[:, :, :tokens, :width]


def sunk_attention(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, sink: Tensor, scale: float | None = None
) -> Tensor:
    """Whole rows under a block mask, with one more key for all queries of a head: logit sink (H,), value 0.

    Such a key leaves the share e^lse / (e^lse + e^sink) of the weights to the others.
    """
    tokens, width, grouped = q.shape[2], v.shape[3], q.shape[1] != k.shape[1]
    scale = q.shape[3] ** -0.5 if scale is None else scale
    q, k, v = _whole_blocks(q, k, v)
    asked = AuxRequest(lse=True)
    o, seen = _flex()(q, k, v, block_mask=documents.blocks, enable_gqa=grouped, scale=scale, return_aux=asked)
    share = torch.sigmoid(seen.lse - sink.float()[:, None])  # (B, H, T)
    return (o * share[..., None].to(o.dtype))[:, :, :tokens, :width]


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, cap: float | None = None, scale: float | None = None
) -> Tensor:
    """Any rows: q (B, H, T, K), k and v (B, G, S, K), allowed (B or 1, 1, T, S) -> (B, H, T, K). No cap."""
    assert cap is None, "the library has no hook here"
    rows, heads, tokens, width = q.shape
    groups = k.shape[1]
    if heads != groups:
        q = q.reshape(rows, groups, heads // groups * tokens, width)
        allowed = allowed if tokens == 1 else allowed.repeat(1, 1, heads // groups, 1)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
    return o.reshape(rows, heads, tokens, v.shape[-1])


def _whole_blocks(*parts: Tensor) -> tuple[Tensor, ...]:
    """(B, H, T, K) each, padded to whole blocks, and to the narrowest head that the kernel takes."""
    return tuple(F.pad(x, (0, max(0, NARROWEST - x.shape[3]), 0, -x.shape[2] % BLOCK)) for x in parts)


def _flex() -> Any:
    """The block-sparse kernel: itself inside what is being compiled, else compiled."""
    return flex_attention if torch.compiler.is_compiling() else _compiled_flex()


@cache
def _compiled_block_mask() -> Any:
    return torch.compile(create_block_mask)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
