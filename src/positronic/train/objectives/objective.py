"""What is minimised: a sum over the batch at hand, divided by counts of the global batch.

total = sum over terms of weight * sum(term) / count        count known before the first micro-batch

Because every term is such a sum, micro-batches add up to the batch, ranks to the world, and padding adds nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn

from positronic.config import Config
from positronic.data import TokenBatch
from positronic.lm import LM

__all__ = ["UNAIDED", "Counts", "DataKind", "Divisors", "Loss", "Measure", "Objective", "ObjectiveConfig"]

DataKind = Literal["texts", "conversations", "pairs"]
"""What rows are made of."""
Measure = Literal["bits_per_byte", "assistant_bits_per_byte", "preference"]
"""How a model is measured on held-out data while it learns."""
UNAIDED: Mapping[str, LM] = MappingProxyType({})
"""The helpers of an objective that asks none."""

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
    """Model and batch in, loss out. It has no weights but those of frozen helpers, and remembers nothing."""

    def counts(self, batch: TokenBatch) -> Counts:
        """What to divide by: from the global batch, while it is still on the CPU. Has `targets` and `bytes`."""
        ...

    def __call__(self, model: LM, batch: TokenBatch, counts: Counts) -> Loss: ...

    def means(self, sums: Mapping[str, float], counts: Counts) -> dict[str, float]:
        """What to log: the terms' means, `loss` (nats a target) and `bits_per_byte` among them."""
        ...


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Config):
    """What every objective declares; a run opens data, measures and loads helpers by it."""

    reads: ClassVar[Mapping[DataKind, Measure]] = {
        "texts": "bits_per_byte",
        "conversations": "assistant_bits_per_byte",
    }
    """The kinds of data it learns from, the usual one first, and how a model is measured on each."""
    rests: ClassVar[tuple[type[nn.Module], ...]] = ()
    """Modules whose own parameters stand still under it."""

    @property
    def helpers(self) -> Mapping[str, str | None]:
        """Frozen models that it asks, by name: the checkpoint of each, or None for the one that the run begins from."""
        return {}

    def build(self, helpers: Mapping[str, LM]) -> Objective:
        """The objective; `helpers` are the models it asks, by the names of `self.helpers`."""
        raise NotImplementedError(f"{type(self).__name__} must say which objective it builds")
