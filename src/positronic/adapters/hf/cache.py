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
    place: Tensor


class StateCache(Cache):
    """A `DecodeState` that `generate` can pass on, reorder and count.

    A cache moves on when a call is given it; the states themselves do not change, so `snapshot` costs nothing, and a
    snapshot may be restored as often as needed, until an older one is gone on from. Once `activate_past_recording` is
    asked for, as drafts do, calls remember what the state was after each token, and `crop` takes tokens back.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, state: DecodeState):
        super().__init__(layers=[])
        self.state = state
        self.length = 0
        """Columns consumed, padding included."""
        self.place = torch.zeros_like(state.position)
        """(B,) where position_ids go on in each row."""
        self.recording = False
        self.past: list[Snapshot] = []
        """What stood before each call that may be taken back."""
        self.beginning = self.snapshot()

    def __repr__(self) -> str:
        return f"StateCache(rows={self.batch_size}, length={self.length})"

    def advance(self, state: DecodeState, columns: int, place: Tensor | None = None) -> None:
        """Take over what a call of so many columns has left behind; place None: as many real tokens farther on."""
        if self.recording:
            self.past.append(self.snapshot())
        self.place = self.place + (state.position - self.state.position) if place is None else place
        self.state, self.length = state, self.length + columns

    def snapshot(self) -> Snapshot:
        return Snapshot(self.state, self.length, self.place)

    def restore(self, before: Snapshot) -> None:
        self.state, self.length, self.place = before.state, before.length, before.place

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
        indices = indices.to(self.state.position.device)
        self.state, self.place, self.past = self.state.select(indices), self.place[indices], []

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = torch.arange(self.batch_size, device=self.state.position.device)
        self.batch_select_indices(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        """Back to the state it was made with."""
        self.restore(self.beginning)

    def activate_past_recording(self) -> None:
        self.recording = True

    def crop(self, tokens_to_remove: int) -> None:
        """Take back so many columns, of calls made while recording and since the last crop."""
        kept = self.length - abs(tokens_to_remove)
        while self.length > kept and self.past:
            before = self.past.pop()
            here = max(0, kept - before.length)
            state, place = self.state, before.place
            self.restore(before)
            if here:
                self.state, self.length = state.commit(range(here)), kept
                self.place = place + (self.state.position - before.state.position)
        if self.length > kept:
            raise StateError(
                f"{self.length - kept} tokens cannot be taken back, as nothing is kept of what stood before them; call "
                f"activate_past_recording before they are read, or restore a cache.snapshot() from then."
            )
        self.past = []
