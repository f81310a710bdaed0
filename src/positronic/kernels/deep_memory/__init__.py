"""Networks that learn while they read: the loop over tokens, which is the definition, and its chunked form."""

from torch import Tensor

from positronic.kernels.autocast import without_autocast
from positronic.kernels.chunks import LOOP
from positronic.kernels.deep_memory.adjoint import learn_adjoint
from positronic.kernels.deep_memory.chunked import recall_together
from positronic.kernels.deep_memory.reference import Learned, gradient, learn_reference, recall
from positronic.kernels.registry import Form, best_form, register

__all__ = [
    "LOOP",
    "Learned",
    "gradient",
    "learn",
    "learn_adjoint",
    "learn_reference",
    "recall",
    "recall_together",
]


def learn(
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    anew: Tensor | None,
    weights: Tensor,
    momentum: Tensor,
    start: Tensor,
    trust: float,
    cap: float,
) -> Learned:
    """What n chunks make of a memory, in the precision of the arguments even under autocast.

    k, v (B, n, C, H, K); gates (B, n, C, H, 4); anew (B, n) bool or None; weights, momentum (B, H, 2, F, K); start (B
    or 1, H, 2, F, K); the equations are those of `reference`. Extents of a chunk are the same in every call, and so are
    its bits.
    """
    with without_autocast(k.device.type):
        found: Learned = best_form("deep_memory", k)(k, v, gates, anew, weights, momentum, start, trust, cap)
        return found


register(
    "deep_memory",
    Form(kind="torch", name="adjoint", run=learn_adjoint),
    Form(kind="reference", run=learn_reference),
)
