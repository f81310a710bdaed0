"""Fast linear prediction of the next observation: the token loop, which is the definition, and its chunked form."""

from torch import Tensor

from positronic.kernels.dispatch import reference_only
from positronic.kernels.predictor.chunked import predict_chunked
from positronic.kernels.predictor.reference import Prediction, predict_reference

__all__ = ["LOOP", "Prediction", "predict", "predict_chunked", "predict_reference"]

LOOP = 16
"""Tokens of a call up to which the loop runs, so that decoding gives the same bits however it is split."""


def predict(x: Tensor, key: Tensor, rate: Tensor, continues: Tensor, weight: Tensor) -> Prediction:
    """Errors and predictions along T tokens: x, key (B, T, R, M), rate, continues (B, T), weight (B, R, M-1, M)."""
    loop = x.shape[1] <= LOOP or reference_only()
    return (predict_reference if loop else predict_chunked)(x, key, rate, continues, weight)
