"""Fast linear prediction of the next observation: the token loop, which is the definition, and its chunked form."""

from torch import Tensor

from positronic.kernels.predictor.chunked import predict_chunked
from positronic.kernels.predictor.reference import Prediction, predict_reference
from positronic.kernels.registry import Form, best_form, register

__all__ = ["LOOP", "Prediction", "predict", "predict_chunked", "predict_reference"]

LOOP = 16
"""Tokens of a call up to which the loop runs, so that decoding gives the same bits however it is split."""


def predict(x: Tensor, key: Tensor, rate: Tensor, continues: Tensor, weight: Tensor) -> Prediction:
    """Errors and predictions along T tokens: x, key (B, T, R, M), rate, continues (B, T), weight (B, R, M-1, M)."""
    found: Prediction = best_form("predictor", x)(x, key, rate, continues, weight)
    return found


def _short(x: Tensor) -> str | None:
    return "leaves short calls to the loop" if x.shape[1] <= LOOP else None


register(
    "predictor",
    Form(kind="torch", name="chunked", run=predict_chunked, takes=f"calls of more than {LOOP} tokens", refuses=_short),
    Form(kind="reference", run=predict_reference),
)
