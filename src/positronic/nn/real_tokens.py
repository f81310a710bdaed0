"""The real tokens of a call in front of its padding, in their order: what counts tokens need not skip any."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Order", "in_front", "in_place", "take"]


class Order(NamedTuple):
    """Where the real tokens of T stand, and where each token stands among them; padding comes behind all real ones."""

    place: Tensor
    """(B, T): where each one of the order stands in the call."""
    rank: Tensor
    """(B, T): which one of the order each token of the call is."""
    n_real: Tensor
    """(B,) real tokens."""

    @staticmethod
    def of(valid: Tensor) -> "Order":
        """valid (B, T) bool."""
        n_real = valid.sum(1)
        padding = ~valid
        rank = torch.where(valid, valid.cumsum(1) - 1, n_real[:, None] + padding.cumsum(1) - 1)
        return Order(padding.long().argsort(dim=1, stable=True), rank, n_real)


def in_front(x: Tensor, order: Order | None) -> Tensor:
    """x (B, T, ...) with its real tokens in front; None: all are."""
    return x if order is None else take(x, order.place)


def in_place(x: Tensor, order: Order | None) -> Tensor:
    """The way back."""
    return x if order is None else take(x, order.rank)


def take(x: Tensor, places: Tensor) -> Tensor:
    """x (B, T, ...), places (B, any) of tokens -> (B, any, ...): whole tokens, copied."""
    rows, tokens = x.shape[:2]
    first = torch.arange(rows, device=x.device) * tokens
    flat = (places + first.view(-1, *[1] * (places.dim() - 1))).flatten()
    return x.flatten(0, 1).index_select(0, flat).unflatten(0, places.shape)
