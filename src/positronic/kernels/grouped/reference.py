"""Products of rows with matrices of which each serves a run of them: the definition, a loop over the runs.

    y_t = W_g x_t        dW_g = sum over t of dy_t x_t^T        for ends_{g-1} <= t < ends_g

Shapes   x (M, K); W (G, N, K); y (M, N); ends (G,) whole numbers that do not fall, the last of them M.
Cost     the host waits for `ends`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["outer_reference", "product_reference"]


def product_reference(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """y"""
    return torch.cat([x[rows] @ weight[g].T for g, rows in enumerate(_runs(ends))])


def outer_reference(dy: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """dW"""
    return torch.stack([dy[rows].T @ x[rows] for rows in _runs(ends)])


def _runs(ends: Tensor) -> Iterator[slice]:
    begin = 0
    for end in ends.tolist():
        yield slice(begin, end)
        begin = end
