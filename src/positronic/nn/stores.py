"""What a layer with gated stores remembers, and how it asks them (see `kernels.store`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from positronic.kernels.store import Recall
from positronic.state import Step

__all__ = ["StoresState"]


@dataclass(frozen=True)
class StoresState:
    """The stores of all groups."""

    stores: Tensor
    """(B, 2, G, E, V) S_in, then S_out, after the last token; float32."""
    document: Tensor
    """(B,) the document they belong to."""
    trail: tuple[Tensor, Tensor] | None = None
    """(B, T+1, ...) both, before the last call and after each of its tokens."""

    @staticmethod
    def new(batch: int, keys: Tensor) -> "StoresState":
        """Empty stores beside keys (G, E, V)."""
        device = keys.device
        stores = torch.zeros(batch, 2, *keys.shape, dtype=torch.float32, device=device)
        return StoresState(stores, torch.zeros(batch, dtype=torch.long, device=device))

    @property
    def s_in(self) -> Tensor:
        """(B, G, E, V) what queries are compared with."""
        return self.stores[:, 0]

    @property
    def s_out(self) -> Tensor:
        """(B, G, E, V) what is read."""
        return self.stores[:, 1]

    def documents(self, step: Step) -> tuple[Tensor, Tensor]:
        """(B, T+1) the documents before the call and at each of its tokens; (B, T) where another one begins."""
        documents = torch.cat([self.document[:, None], step.documents(self.document)], 1)
        return documents, documents[:, 1:] != documents[:, :-1]

    def commit(self, path: Sequence[int]) -> "StoresState":
        assert self.trail is not None, "DecodeState.commit asks for the trail"
        stores, document = self.trail
        return StoresState(stores[:, len(path)], document[:, len(path)])

    def select(self, rows: Tensor) -> "StoresState":
        return StoresState(self.stores[rows], self.document[rows])

    def carried(self) -> "StoresState":
        return StoresState(self.stores, torch.zeros_like(self.document))

    @staticmethod
    def after(recalled: Recall, documents: Tensor, step: Step) -> "StoresState":
        """The state after a call that recalled this in these documents."""
        assert recalled.trail is not None or not step.keep_trail, "a call that keeps its trail runs the loop"
        trail = (recalled.trail, documents) if step.keep_trail and recalled.trail is not None else None
        return StoresState(recalled.stores, documents[:, -1], trail)
