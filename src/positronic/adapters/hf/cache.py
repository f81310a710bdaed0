"""`past_key_values` as Transformers passes it on: our `DecodeState`, which holds all that a request leaves behind."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from positronic.errors import StateError
from positronic.state import DecodeState

__all__ = ["Snapshot", "StateCache"]


@dataclass(frozen=True)
class Snapshot:
    """What a cache held at one moment: a value."""

    state: DecodeState
    length: int


class StateCache(Cache):
    """A `DecodeState` that `generate` can pass on, reorder and count.

    A cache moves on when a call is given it; the states themselves do not change, so `snapshot` costs nothing, and a
    snapshot may be restored as often as needed, until an older one is gone on from.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, state: DecodeState):
        super().__init__(layers=[])
        self.state = state
        self.length = 0
        """Columns consumed, padding included."""
        self.beginning = self.snapshot()

    def __repr__(self) -> str:
        return f"StateCache(rows={self.batch_size}, length={self.length})"

    def advance(self, state: DecodeState, columns: int) -> None:
        """Take over what a call of so many columns has left behind."""
        self.state, self.length = state, self.length + columns

    def snapshot(self) -> Snapshot:
        return Snapshot(self.state, self.length)

    def restore(self, before: Snapshot) -> None:
        self.state, self.length = before.state, before.length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns consumed, padding included: what `generate` cuts its input by."""
        return self.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return self.length > 0

    @property
    def batch_size(self) -> int:
        return len(self.state.position)

    @property
    def is_initialized(self) -> bool:
        return True

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Each beam goes on from the row it came from."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.state = self.state.select(indices.to(self.state.position.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = torch.arange(self.batch_size, device=self.state.position.device)
        self.batch_select_indices(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        """Back to the state it was made with."""
        self.restore(self.beginning)

    def crop(self, tokens_to_remove: int) -> None:
        """Zero tokens only: a recurrence cannot be unread."""
        if tokens_to_remove:
            raise StateError(
                f"{abs(tokens_to_remove)} tokens cannot be taken back from a recurrent state; keep cache.snapshot() "
                f"from before them and restore it."
            )
