"""What is remembered between calls, and how the tokens of one call sit in their sequences.

`ForwardOptions` are what a caller wants of one forward call over `T` tokens, a `Step` is what the layers see of it; a
`DecodeState` is all that a conversation has left behind so far. All are values: a call returns the next state and
changes nothing it was given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.errors import StateError

if TYPE_CHECKING:
    from positronic.probe import Probe

__all__ = ["PADDING_SEGMENT", "DecodeState", "ForwardOptions", "Memory", "State", "Step"]

PADDING_SEGMENT = -1
"""The document number of padding: equal to no real document's, so that nothing ever attends to it."""


@runtime_checkable
class State(Protocol):
    """What one mixer remembers: a frozen dataclass of tensors, batch first."""

    def commit(self, path: Sequence[int]) -> Self:
        """Keep these tokens of the last call, from its first on, and forget the rest of it (needs `keep_trail`)."""
        ...

    def select(self, rows: Tensor) -> Self:
        """A copy with these rows, (n,) indices into the batch: to fork, to reorder, to join or to leave a batch."""
        ...


@runtime_checkable
class Memory(State, Protocol):
    """A state that may outlive its conversation: what was learned while reading, not what was read."""

    def carried(self) -> Self:
        """The same memory where another conversation begins."""
        ...


@dataclass(frozen=True, kw_only=True)
class ForwardOptions:
    """What a caller wants of one forward call over tokens (B, T)."""

    valid: Tensor | None = None
    """(B, T) False at padding, which changes nothing; None: no padding."""
    segments: Tensor | None = None
    """(B, T) numbers of documents: where they change another begins, besides where the tokens say so."""
    keep_trail: bool = False
    """Remember what the state was after every token, so that `commit` can choose."""
    write_memory: bool = True
    """False freezes test-time memories."""
    probe: "Probe | None" = None
    """Who watches the taps; None: nobody, at no cost."""


USUAL = ForwardOptions()


@dataclass(frozen=True)
class Step:
    """One forward call over T tokens as the layers see it: what was wanted, and what the model has made of it."""

    tokens: Tensor
    """(B, T) token ids."""
    positions: Tensor
    """(B, T) place in the sequence, counted over real tokens."""
    segments: Tensor | None = None
    """(B, T) number of the document, -1 at padding; documents do not see each other. None: one document a row."""
    options: ForwardOptions = USUAL
    shared: Mapping[str, Any] = field(default_factory=dict)
    """What is computed once a call and read by many layers."""

    @property
    def valid(self) -> Tensor | None:
        return self.options.valid

    @property
    def keep_trail(self) -> bool:
        return self.options.keep_trail

    @property
    def write_memory(self) -> bool:
        return self.options.write_memory

    @property
    def probe(self) -> "Probe | None":
        return self.options.probe

    @staticmethod
    def of(
        tokens: Tensor,
        state: "DecodeState | None" = None,
        options: ForwardOptions | None = None,
        boundary_id: int | None = None,
    ) -> "Step":
        """The step for `tokens` (B, T) after `state`: positions counted on, documents cut at `boundary_id`.

        The token that ends a document stands between two and is one of its own: it sees nothing and nothing sees it,
        so that the first token of a text is predicted from it alone, in packed rows as in scoring. Where no
        boundaries are given, texts have even numbers and the ends behind them odd ones.
        The options' `segments` may add boundaries to those found in the tokens, never remove one. Padding does not
        advance positions.
        """
        options = options or USUAL
        valid, asked = options.valid, options.segments
        real = torch.ones_like(tokens) if valid is None else valid.long()
        started = torch.zeros_like(tokens[:, 0]) if state is None else state.position
        positions = (started[:, None] + real.cumsum(1) - 1).clamp(min=0)
        segments = None
        if boundary_id is not None or asked is not None or valid is not None or (state is not None):
            first = torch.zeros_like(tokens[:, 0]) if state is None else state.segment
            ends = torch.zeros_like(real) if boundary_id is None else (tokens == boundary_id).long() * real
            begins = 2 * F.pad(ends[:, :-1], (1, 0))
            if asked is not None:
                begins[:, 1:] += (asked[:, 1:] != asked[:, :-1]).long()
            segments = first[:, None] + begins.cumsum(1) + ends
            segments = segments.masked_fill(real == 0, PADDING_SEGMENT)
        return Step(tokens, positions, segments, options)

    def where_real(self, x: Tensor, padding: float) -> Tensor:
        """(B, T, ...): `x`, broadcast over rows and tokens, at real tokens and `padding` elsewhere."""
        shape = (*self.tokens.shape, *x.shape[-1:]) if x.dim() < 3 else x.shape
        x = x.expand(shape)
        if self.valid is None:
            return x
        return x.masked_fill(~self.valid.reshape(*self.valid.shape, *[1] * (x.dim() - 2)), padding)

    def documents(self, before: Tensor | None = None) -> Tensor:
        """(B, T) number of each token's document; padding belongs to the document before it.

        before (B,): the document that a state belongs to, whose memory a token reads only if it is in that document;
        None: a call without a state, whose first document is number 0.
        """
        first = torch.zeros_like(self.tokens[:, 0]) if before is None else before
        if self.segments is None:
            return first[:, None].expand_as(self.tokens)
        return torch.cat([first[:, None], self.segments], 1).cummax(1).values[:, 1:]

    def tap(self, owner: nn.Module, name: str, x: Tensor) -> Tensor:
        """`x` itself while nobody watches; otherwise what the probe makes of it at `path.of.owner:name`."""
        return x if self.probe is None else self.probe(owner, name, x)

    def next_state(
        self, state: "DecodeState | None", layers: Sequence[State | None], boundary_id: int | None = None
    ) -> "DecodeState | None":
        """The state after this call, given the layers' states after it; None when the call had none (training)."""
        if state is None:
            return None
        real = torch.ones_like(self.tokens) if self.valid is None else self.valid.long()
        counted = torch.cat([state.position[:, None], state.position[:, None] + real.cumsum(1)], 1)  # (B, T+1)
        ends = torch.zeros_like(real) if boundary_id is None else (self.tokens == boundary_id).long() * real
        inside = self.segments if self.segments is not None else state.segment[:, None].expand_as(real)
        after = torch.where(real > 0, inside + ends, PADDING_SEGMENT)
        after = torch.cat([state.segment[:, None], after], 1).cummax(1).values  # padding keeps the document before it
        trail = (counted, after) if self.keep_trail else None
        return DecodeState(tuple(layers), counted[:, -1], state.position, after[:, -1], trail)


@dataclass(frozen=True)
class DecodeState:
    """The whole conversation so far."""

    layers: tuple[State | None, ...]
    """One state a mixer, None for those that remember nothing."""
    position: Tensor
    """(B,) tokens consumed."""
    start: Tensor
    """(B,) the same before the last call; `commit` counts from here."""
    segment: Tensor
    """(B,) number of the document the next token belongs to."""
    trail: tuple[Tensor, Tensor] | None = None
    """(B, T+1) each: `position` and `segment` before the last call and after each of its tokens."""

    @staticmethod
    def new(layers: Sequence[State | None], batch: int, device: torch.device) -> "DecodeState":
        """The state of `batch` conversations that have not begun."""
        zero = torch.zeros(batch, dtype=torch.long, device=device)
        return DecodeState(tuple(layers), zero, zero, zero)

    def commit(self, path: Sequence[int]) -> "DecodeState":
        """The state in which only the tokens `path` = 0, 1, ... of the last call have been consumed."""
        if self.trail is None:
            raise StateError(
                "This state kept no trail of its last call; make that call with ForwardOptions(keep_trail=True)."
            )
        counted, segment = self.trail
        if list(path) != list(range(len(path))) or len(path) >= counted.shape[1]:
            raise StateError(
                f"Path {list(path)} is no beginning of the {counted.shape[1] - 1} tokens of the last call; "
                f"commit 0, 1, ... up to the last token to keep."
            )
        layers = tuple(None if layer is None else layer.commit(path) for layer in self.layers)
        return DecodeState(layers, counted[:, len(path)], self.start, segment[:, len(path)])

    def select(self, rows: Tensor) -> "DecodeState":
        """A copy with these rows, (n,) indices; the copy shares no buffer with this state."""
        layers = tuple(None if layer is None else layer.select(rows) for layer in self.layers)
        return DecodeState(layers, self.position[rows], self.start[rows], self.segment[rows])
