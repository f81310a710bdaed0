"""What a layer with gated stores remembers, and how it asks them (see `kernels.store`)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from positronic.kernels.store import Recall
from positronic.state import Memory, Step

__all__ = ["StoresState"]


@dataclass(frozen=True)
class StoresState(Memory):
    """The stores of all groups."""

    stores: Tensor
    """(B, 2, G, E, V) S_in, then S_out, after the last token; float32."""
    trail: tuple[Tensor] | None = None
    """(B, T+1, ...) the same before the last call and after each of its tokens."""

    @staticmethod
    def new(batch: int, keys: Tensor) -> "StoresState":
        """Empty stores beside keys (G, E, V)."""
        return StoresState(torch.zeros(batch, 2, *keys.shape, dtype=torch.float32, device=keys.device))

    @property
    def s_in(self) -> Tensor:
        """(B, G, E, V) what queries are compared with."""
        return self.stores[:, 0]

    @property
    def s_out(self) -> Tensor:
        """(B, G, E, V) what is read."""
        return self.stores[:, 1]

    @staticmethod
    def after(recalled: Recall, step: Step) -> "StoresState":
        """The state after a call that recalled this."""
        assert recalled.trail is not None or not step.keep_trail, "a call that keeps its trail runs the loop"
        trail = (recalled.trail,) if step.keep_trail and recalled.trail is not None else None
        return StoresState(recalled.stores, trail)
