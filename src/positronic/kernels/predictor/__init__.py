"""Fast linear prediction of the next observation: the token loop, which is the definition, and its chunked form."""

from torch import Tensor

from positronic.kernels.chunks import LOOP, left_to_the_loop
from positronic.kernels.predictor.chunked import predict_chunked
from positronic.kernels.predictor.reference import Prediction, predict_reference
from positronic.kernels.registry import Form, best_form, register

__all__ = ["LOOP", "Prediction", "predict", "predict_chunked", "predict_reference"]


def predict(x: Tensor, key: Tensor, rate: Tensor, continues: Tensor, weight: Tensor) -> Prediction:
    """Errors and predictions along T tokens: x, key (B, T, R, M), rate, continues (B, T), weight (B, R, M-1, M)."""
    found: Prediction = best_form("predictor", x)(x, key, rate, continues, weight)
    return found


register(
    "predictor",
    Form(
        kind="torch",
        name="chunked",
        run=predict_chunked,
        takes=f"calls of more than {LOOP} tokens",
        refuses=left_to_the_loop,
    ),
    Form(kind="reference", run=predict_reference),
)
