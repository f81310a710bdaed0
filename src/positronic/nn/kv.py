"""Keys and values of all tokens so far: a growing buffer, and states that say how much of it is theirs.

Shapes   keys, values (B, G, S, K) for S tokens so far, G heads of width K; a call adds T tokens.
State    2 G K numbers a token and its document's number. States of one conversation share the buffer: a commit moves a
         length, and continuing from an older state writes over the rows after it.
Cost     appending is amortised O(T); a token sees the tokens of its own document, itself included, never a later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.errors import StateError
from positronic.state import PADDING_SEGMENT

__all__ = ["KVBuffer", "KVState"]


@dataclass
class KVBuffer:
    """Keys and values of all tokens so far, shared by the states of one conversation."""

    keys: Tensor
    """(B, G, capacity, K)"""
    values: Tensor
    """(B, G, capacity, K)"""
    segments: Tensor
    """(B, capacity) document numbers, -1 at padding."""
    writes: list[tuple[int, int, object]] = field(default_factory=list)
    """(first row, end, stamp) of each call whose rows still stand, in order: which rows are whose."""

    def writer(self, length: int) -> object:
        """The stamp of the call that wrote the last of `length` rows; None before the first row."""
        return next((stamp for first, end, stamp in reversed(self.writes) if first < length <= end), None)

    def write(self, at: int, keys: Tensor, values: Tensor, segments: Tensor) -> object:
        """Put (B, G, T, K) keys and values at row `at`, over whatever stood there; returns the new stamp."""
        end = at + keys.shape[2]
        self.grow(end)
        self.keys[:, :, at:end], self.values[:, :, at:end] = keys, values
        self.segments[:, at:end] = segments
        while self.writes and self.writes[-1][0] >= at:
            self.writes.pop()
        if self.writes:
            first, _, mark = self.writes[-1]
            self.writes[-1] = (first, at, mark)
        stamp = object()
        self.writes.append((at, end, stamp))
        return stamp

    def grow(self, rows: int) -> None:
        """Room for `rows` tokens, doubling so that appending stays cheap."""
        capacity = self.keys.shape[2]
        if rows <= capacity:
            return
        more = max(rows, 2 * capacity, 64) - capacity
        self.keys = torch.cat([self.keys, self.keys.new_zeros(*self.keys.shape[:2], more, self.keys.shape[3])], 2)
        self.values = torch.cat(
            [self.values, self.values.new_zeros(*self.values.shape[:2], more, self.keys.shape[3])], 2
        )
        self.segments = torch.cat([self.segments, self.segments.new_full((len(self.segments), more), -1)], 1)


@dataclass(frozen=True)
class KVState:
    """The first `length` rows of a buffer. Continuing from an older state takes the buffer over from the newer ones."""

    buffer: KVBuffer
    length: int = 0
    start: int = 0
    """Length before the last call."""
    stamp: object = None
    """The call that wrote the last rows."""
    fixed: bool = False
    """Read the whole buffer under a mask, so that no bit of a row depends on the length or on the calls before."""

    lead: int = 0
    """Rows that the first call writes in front of its tokens, and that every token sees."""

    @staticmethod
    def new(like: Tensor, batch: int, heads: int, width: int, room: int = 0, lead: int = 0) -> "KVState":
        """No tokens yet, in the dtype and on the device of `like`; `room` > 0 fixes the rows of that many tokens."""
        rows = room + lead if room else 0
        shape = (batch, heads, rows, width)
        segments = torch.full((batch, rows), PADDING_SEGMENT, dtype=torch.long, device=like.device)
        return KVState(KVBuffer(like.new_zeros(shape), like.new_zeros(shape), segments), fixed=room > 0, lead=lead)

    def extend(self, keys: Tensor, values: Tensor, segments: Tensor | None) -> tuple[Tensor, Tensor, Tensor, "KVState"]:
        """Append T tokens: keys, values (B, G, T, K) and their documents (B, T); in the first call behind `lead` rows.

        Returns keys and values (B, G, S, K) of all tokens, who sees whom as (B, 1, T, S) bool, and the next state.
        """
        self.check()
        assert segments is not None, "a step that continues a state knows its documents"
        n, buffer, tokens = self.length, self.buffer, segments.shape[1]
        first = n + (0 if n else self.lead)  # row of the first token
        assert keys.shape[2] == first - n + tokens, "the first call brings the rows in front"
        stamp = buffer.write(
            n,
            keys.to(buffer.keys.dtype),
            values.to(buffer.keys.dtype),
            F.pad(segments, (first - n, 0), value=PADDING_SEGMENT),
        )
        end = first + tokens
        extent = buffer.keys.shape[2] if self.fixed else end
        ahead = torch.arange(extent, device=keys.device) - first > torch.arange(tokens, device=keys.device)[:, None]
        allowed = (segments[:, :, None] == buffer.segments[:, None, :extent]) & ~ahead  # (B, T, S)
        allowed[..., : self.lead] = True
        all_keys, all_values = buffer.keys[:, :, :extent].to(keys.dtype), buffer.values[:, :, :extent].to(keys.dtype)
        return all_keys, all_values, allowed[:, None], KVState(buffer, end, n, stamp, self.fixed, self.lead)

    def commit(self, path: Sequence[int]) -> "KVState":
        """Keep the first rows of the last call; the rows after them are dead and will be written over."""
        self.check()
        kept = self.start + len(path)
        kept += self.lead if path and not self.start else 0
        return KVState(self.buffer, kept, self.start, self.buffer.writer(kept), self.fixed, self.lead)

    def select(self, rows: Tensor) -> "KVState":
        """A copy with these rows and a buffer of its own."""
        self.check()
        keep = self.buffer.keys.shape[2] if self.fixed else self.length
        stamp = object() if self.length else None
        buffer = KVBuffer(
            self.buffer.keys[rows, :, :keep],
            self.buffer.values[rows, :, :keep],
            self.buffer.segments[rows, :keep],
            [(0, self.length, stamp)] if self.length else [],
        )
        return KVState(buffer, self.length, self.start, stamp, self.fixed, self.lead)

    def check(self) -> None:
        """Raise if another continuation has overwritten rows of this state."""
        if self.buffer.writer(self.length) is not self.stamp:
            raise StateError(
                "This state's keys were overwritten when an older state of the same conversation was continued. "
                "Branch with state.select(rows) before continuing twice."
            )
