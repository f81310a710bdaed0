"""What a layer with gated stores remembers, and how it asks them (see `kernels.store`)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from positronic.kernels.store import Recall
from positronic.state import Memory, Step

__all__ = ["SlotsState"]


@dataclass(frozen=True)
class SlotsState(Memory):
    """The stores of all groups."""

    stores: Tensor
    """(B, 2, G, E, V) S_in, then S_out, after the last token; float32."""
    rollback: tuple[Tensor] | None = None
    """(B, T+1, ...) the same before the last call and after each of its tokens."""

    @staticmethod
    def new(batch: int, keys: Tensor) -> "SlotsState":
        """Empty stores beside keys (G, E, V)."""
        return SlotsState(torch.zeros(batch, 2, *keys.shape, dtype=torch.float32, device=keys.device))

    @property
    def s_in(self) -> Tensor:
        """(B, G, E, V) what queries are compared with."""
        return self.stores[:, 0]

    @property
    def s_out(self) -> Tensor:
        """(B, G, E, V) what is read."""
        return self.stores[:, 1]

    @staticmethod
    def after(recalled: Recall, step: Step) -> "SlotsState":
        """The state after a call that recalled this."""
        assert recalled.rollback is not None or not step.keep_rollback, "a call that keeps its rollback runs the loop"
        rollback = (recalled.rollback,) if step.keep_rollback and recalled.rollback is not None else None
        return SlotsState(recalled.stores, rollback)
