"""What is minimised: a sum over the batch at hand, divided by counts of the global batch.

total = sum over terms of weight * sum(term) / count        count known before the first micro-batch

Because every term is such a sum, micro-batches add up to the batch, ranks to the world, and padding adds nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from positronic.data import TokenBatch
from positronic.lm import LM

__all__ = ["Counts", "Divisors", "Loss", "Objective"]

Counts = Mapping[str, int]
"""What the sums are divided by, by name, over the global batch."""
Divisors = Mapping[str, int] | Mapping[str, Tensor]
"""The same; or what each row's part of a sum is divided by, (B,), where a row cannot know the batch."""


@dataclass(frozen=True)
class Loss:
    """What an objective says about one micro-batch."""

    total: Tensor
    """Scalar with gradient: this micro-batch's share of the global mean."""
    terms: Mapping[str, Tensor]
    """Unweighted sums by name, without gradient; each belongs to the count that `Objective.means` divides it by."""


class Objective(Protocol):
    """Model and batch in, loss out. It holds no weights and remembers nothing."""

    def counts(self, batch: TokenBatch) -> Counts:
        """What to divide by: from the global batch, while it is still on the CPU. Has `targets` and `bytes`."""
        ...

    def __call__(self, model: LM, batch: TokenBatch, counts: Counts) -> Loss: ...

    def means(self, sums: Mapping[str, float], counts: Counts) -> dict[str, float]:
        """What to log: the terms' means, `loss` (nats a target) and `bits_per_byte` among them."""
        ...
