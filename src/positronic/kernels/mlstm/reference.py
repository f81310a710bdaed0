"""Matrix memory with exponential gates (mLSTM): the definition, a loop over tokens.

m_t = max(log f_t + m_{t-1}, log i_t)         F = exp(log f_t + m_{t-1} - m_t)         I = exp(log i_t - m_t)
C_t = F C_{t-1} + I v_t k_t^T                 n_t = F n_{t-1} + I k_t                  order: F, I, then C, n, m, then h
h_t = C_t q_t / max(|n_t . q_t|, exp(-m_t))   C_{t-1} = n_{t-1} = m_{t-1} = 0 where t begins another document

What is remembered is C e^m and n e^m, and h = C e^m q / max(|n e^m . q|, 1): no m changes a result, it only keeps the
stored numbers within the range of floats. A token that is none has log i = -inf and log f = 0, and changes no bit.

Shapes   q, k (B, T, H, K); v, h (B, T, H, V); log i, log f (B, T, H), log f finite and at most 0; fresh (B, T) bool,
         True where a document begins that is not the one before; C (B, H, V, K), n (B, H, K), m (B, H).
Source   Beck et al. 2024, "xLSTM", arXiv 2405.04517, equations 19 to 27. Here m starts at 0 and not at -inf, which is
         the same memory, as C and n are 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Cell", "LoopContext", "floored_reference", "read_reference", "write_reference"]


class Cell(NamedTuple):
    """The memory of H heads, in units of e^m."""

    c: Tensor
    """(B, H, V, K)"""
    n: Tensor
    """(B, H, K)"""
    m: Tensor
    """(B, H)"""


class LoopContext(NamedTuple):
    """The memory after each token."""

    c: Tensor
    """(B, T, H, V, K)"""
    n: Tensor
    """(B, T, H, K)"""
    m: Tensor
    """(B, T, H)"""


def write_reference(
    k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, cell: Cell, fresh: Tensor
) -> tuple[LoopContext, Cell]:
    """The definition of what is remembered; how tokens are split into calls changes no bit."""
    after: list[Cell] = []
    for key, value, i, f, begins in zip(*(x.unbind(1) for x in (k, v, log_i, log_f, fresh)), strict=True):
        c, n, m = (x.masked_fill(begins.view(-1, *[1] * (x.dim() - 1)), 0.0) for x in cell)
        top = torch.maximum(f + m, i)  # (B, H)
        keep, add = (f + (m - top)).exp()[..., None], (i - top).exp()[..., None]
        c = keep[..., None] * c + (add * value)[..., None] * key[..., None, :]
        cell = Cell(c, keep * n + add * key, top)
        after.append(cell)
    return LoopContext(*(torch.stack(parts, 1) for parts in zip(*after, strict=True))), cell


def read_reference(q: Tensor, context: LoopContext) -> Tensor:
    """The definition of what queries find, h (B, T, H, V)."""
    normaliser = torch.maximum(_normaliser(q, context), (-context.m).exp())
    return (context.c * q[..., None, :]).sum(-1) / normaliser[..., None]


def floored_reference(q: Tensor, context: LoopContext) -> Tensor:
    """(B, T, H) bool: where what is found is divided by the floor, exp(-m)."""
    return _normaliser(q, context) < (-context.m).exp()


def _normaliser(q: Tensor, context: LoopContext) -> Tensor:
    """(B, T, H): |n . q|."""
    return (context.n * q).sum(-1).abs()
