"""Normalised least mean squares by its definition: a fast linear map that learns to predict the next observation.

e_t = y_t - W_{t-1} k_t                                   y_t: x_t without its last entry; k_t: the observation before
W_t = W_{t-1} + eta_t e_t k_t^T / (1e-6 + |k_t|^2)
p_t = W_t x_t                                             what is expected of the next token

Where a document begins, k_t = 0 and W_{t-1} = 0: the error is y_t itself, W learns nothing, and p_t = 0.

Where y = M k for a fixed M, one step takes W - M times 1 - eta |k|^2 / (1e-6 + |k|^2) along k and leaves it across k:
|W - M| never grows for 0 < eta < 2, whatever the scale of x.

Shapes   x, k (B, T, R, M), M = 5 for ring controllers; eta (B, T), 0 where nothing is to be learned;
         continues (B, T) bool, False at a document's first token; W (B, R, M-1, M); e, p (B, T, R, M-1). Float32.
Cost     3 M (M-1) products a ring and token.
Source   normalised least mean squares, as adaptive filters use it; here a document's end empties the map.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["EPSILON", "Prediction", "predict_reference"]

EPSILON = 1e-6


class Prediction(NamedTuple):
    """What the map says along a call, and what it has become."""

    ahead: Tensor
    """(B, T, R, M-1): p, of the next observation."""
    error: Tensor
    """(B, T, R, M-1): e, of this one."""
    weight: Tensor
    """(B, R, M-1, M): W after the call."""
    rollback: Tensor | None = None
    """(B, T+1, R, M-1, M): W before the call and after each token; the definition alone keeps it."""


def predict_reference(x: Tensor, key: Tensor, rate: Tensor, continues: Tensor, weight: Tensor) -> Prediction:
    """The definition, token by token: x, key (B, T, R, M); rate, continues (B, T); weight (B, R, M-1, M) so far."""
    rollback, ahead, error = [weight], [], []
    step = rate[..., None, None] / (EPSILON + key.square().sum(-1, keepdim=True))  # (B, T, R, 1)
    new = ~continues.view(*continues.shape, 1, 1, 1)
    whole = (part.unbind(1) for part in (x[..., :-1], x[..., None, :], key[..., None, :], step, new))
    for y, row, k, eta, begins in zip(*whole, strict=True):  # (B, R, M-1), twice (B, R, 1, M), (B, R, 1), (B, 1, 1, 1)
        weight = weight.masked_fill(begins, 0.0)
        error.append(y - (weight * k).sum(-1))
        weight = weight + (eta * error[-1])[..., None] * k
        ahead.append((weight * row).sum(-1))
        rollback.append(weight)
    return Prediction(torch.stack(ahead, 1), torch.stack(error, 1), weight, torch.stack(rollback, 1))
