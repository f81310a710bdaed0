"""What is remembered between calls, and how the tokens of one call sit in their sequences.

`ForwardOptions` are what a caller wants of one forward call over `T` tokens, a `Step` is what the layers see of it; a
`DecodeState` is all that a conversation has left behind so far. All are values: a call returns the next state and
changes nothing it was given.

Each row of a batch stands at a place of its own: the token at position p of a row has row p of whatever keeps one
entry a token, and what stands behind the newest token's is room. So rows of any lengths can be joined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic import tree
from positronic.errors import StateError

if TYPE_CHECKING:
    from positronic.probe import Probe

__all__ = ["PADDING_SEGMENT", "DecodeState", "ForwardOptions", "Loops", "Memory", "State", "Step"]

PADDING_SEGMENT = -1
"""The document number of padding: equal to no real document's, so that nothing ever attends to it."""

State = tree.Node
"""What one mixer remembers: a frozen dataclass whose fields say what can be done to it (`positronic.tree`)."""


class Memory(State):
    """A state that may outlive its conversation: what was learned while reading, not what was read."""

    def carried(self) -> Self:
        """The same memory where another conversation begins."""
        return self


@dataclass(frozen=True, kw_only=True)
class ForwardOptions:
    """What a caller wants of one forward call over tokens (B, T)."""

    valid: Tensor | None = None
    """(B, T) False at padding, which changes nothing; None: no padding."""
    segments: Tensor | None = None
    """(B, T) numbers of documents: where they change another begins, besides where the tokens say so."""
    keep_rollback: bool = False
    """Remember what the state was after every token, so that `commit` can choose."""
    write_memory: bool = True
    """False freezes test-time memories."""
    probe: "Probe | None" = None
    """Who watches the taps; None: nobody, at no cost."""
    loops: "Loops | Tensor" = None
    """How often a loop is passed: (B,) depths, one depth, or 0 for the usual one; "auto": until an iteration has
    changed a token little; None: the usual depth, and in training a drawn one."""


Loops = int | Literal["auto"] | None
"""How often a loop is passed, where all rows are alike."""
USUAL = ForwardOptions()
FRESH = "fresh"


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
    began: Tensor | None = None
    """(B, T) position of the first token of each token's document; None: 0."""
    entries: Tensor | None = None
    """(B, T) where states keep the entry of each token; None: at its position."""
    reach: int = 0
    """With a state: how many entries of a row may be read."""
    first: int | None = None
    """With a state: where the entries of this call begin, if in all rows alike; None: only the device knows."""

    @property
    def valid(self) -> Tensor | None:
        return self.options.valid

    @property
    def keep_rollback(self) -> bool:
        return self.options.keep_rollback

    @property
    def write_memory(self) -> bool:
        return self.options.write_memory

    @property
    def probe(self) -> "Probe | None":
        return self.options.probe

    @property
    def loops(self) -> "Loops | Tensor":
        return self.options.loops

    @property
    def place(self) -> Tensor:
        """(B, T) real tokens of its document before each token; of no meaning at padding."""
        return self.positions if self.began is None else self.positions - self.began

    @property
    def fresh(self) -> Tensor:
        """(B, T) True at the first token of a document, except of the one that a sequence begins with."""
        if FRESH in self.shared:
            found: Tensor = self.shared[FRESH]
            return found
        if self.began is None:
            return torch.zeros_like(self.tokens, dtype=torch.bool)
        begins = (self.positions == self.began) & (self.began > 0)
        return begins if self.valid is None else begins & self.valid

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
        if state is not None and tokens.shape[1] == 1 and options.valid is None and options.segments is None:
            return Step._of_one(tokens, state, options, boundary_id)
        valid, asked = options.valid, options.segments
        real = torch.ones_like(tokens) if valid is None else valid.long()
        counted = real.cumsum(1) - 1
        counted = counted if state is None else state.position[:, None] + counted
        positions = counted if valid is None else counted.clamp(min=0)
        if boundary_id is None and asked is None and valid is None and state is None:
            return Step(tokens, positions, None, options)
        first = torch.zeros_like(tokens[:, 0]) if state is None else state.segment
        ends = torch.zeros_like(real) if boundary_id is None else (tokens == boundary_id).long() * real
        begins = 2 * F.pad(ends[:, :-1], (1, 0))
        if asked is not None:
            begins[:, 1:] += (asked[:, 1:] != asked[:, :-1]).long()
        segments = first[:, None] + begins.cumsum(1) + ends
        segments = segments.masked_fill(real == 0, PADDING_SEGMENT)
        of_each = torch.cat([first[:, None], segments], 1).cummax(1).values  # padding is of the document before it
        anew = torch.where(of_each[:, 1:] != of_each[:, :-1], positions, 0)
        if state is None:
            return Step(tokens, positions, segments, options, began=anew.cummax(1).values)
        if state.owner is not None:
            state.owner.claim(tokens.shape[1])
        began = torch.cat([state.began[:, None], anew], 1).cummax(1).values[:, 1:]
        entries = None
        if valid is not None:  # padding goes behind all real tokens of its row
            entries = torch.where(valid, counted, counted[:, -1:] + (~valid).cumsum(1))
        at = state.length if state.level and valid is None else None
        reach = max(state.capacity, state.length + tokens.shape[1])
        return Step(tokens, positions, segments, options, {}, began, entries, reach, at)

    @staticmethod
    def _of_one(tokens: Tensor, state: "DecodeState", options: ForwardOptions, boundary_id: int | None) -> "Step":
        """The same for a real token (B, 1), in fewer operations: its document is the state's, or its own end."""
        positions, began, segments = (x[:, None] for x in (state.position, state.began, state.segment))
        if boundary_id is not None:
            ends = tokens == boundary_id
            segments, began = segments + ends, torch.where(ends, positions, began)
        if state.owner is not None:
            state.owner.claim(1)
        at, reach = state.length if state.level else None, max(state.capacity, state.length + 1)
        return Step(tokens, positions, segments, options, {}, began, None, reach, at)

    @property
    def real(self) -> Tensor:
        """(B, T) False at padding."""
        return torch.ones_like(self.tokens, dtype=torch.bool) if self.valid is None else self.valid

    def rows(self, rows: Tensor | slice) -> "Step":
        """The step of these rows alone, (n,) indices or a slice, in which nothing is shared yet."""

        def of(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows]

        options = replace(self.options, valid=of(self.valid), segments=of(self.options.segments))
        tokens, positions, segments = self.tokens[rows], self.positions[rows], of(self.segments)
        began, entries = of(self.began), of(self.entries)
        return Step(tokens, positions, segments, options, {}, began, entries, self.reach, self.first)

    def prepare_fresh(self) -> dict[str, Any]:
        """For a mixer's `prepare`: `fresh`, once a call."""
        return {FRESH: self.fresh}

    def where_real(self, x: Tensor, padding: float) -> Tensor:
        """(B, T, ...): `x`, broadcast over rows and tokens, at real tokens and `padding` elsewhere."""
        shape = (*self.tokens.shape, *x.shape[-1:]) if x.dim() < 3 else x.shape
        x = x if x.shape == shape else x.expand(shape)
        if self.valid is None:
            return x
        return x.masked_fill(~self.valid.reshape(*self.valid.shape, *[1] * (x.dim() - 2)), padding)

    def documents(self) -> Tensor:
        """(B, T) number of each token's document in a call without a state; padding belongs to the one before it."""
        if self.segments is None:
            return torch.zeros_like(self.tokens)
        return self.segments.clamp(min=0).cummax(1).values

    def tap(self, owner: nn.Module, name: str, x: Tensor) -> Tensor:
        """`x` itself while nobody watches; otherwise what the probe makes of it at `path.of.owner:name`."""
        return x if self.probe is None else self.probe(owner, name, x)

    def next_state(
        self, state: "DecodeState | None", layers: Sequence[State | None], boundary_id: int | None = None
    ) -> "DecodeState | None":
        """The state after this call, given the layers' states after it; None when the call had none (training)."""
        if state is None:
            return None
        assert self.segments is not None, "a step that continues a state knows its documents"
        assert self.began is not None, "and where they began"
        after = partial(
            DecodeState,
            tuple(layers),
            length=state.length + self.tokens.shape[1],
            level=state.level and self.valid is None,
            capacity=state.capacity,
            owner=state.owner.next() if state.owner else None,
        )
        if self.tokens.shape[1] == 1 and self.valid is None and not self.keep_rollback:
            position, began, segment = self.positions[:, 0] + 1, self.began[:, 0], self.segments[:, 0]
            if boundary_id is None:
                return after(position, began, segment)
            ends = self.tokens[:, 0] == boundary_id
            return after(position, torch.where(ends, position, began), segment + ends)
        real = torch.ones_like(self.tokens) if self.valid is None else self.valid.long()
        position = torch.cat([state.position[:, None], state.position[:, None] + real.cumsum(1)], 1)  # (B, T+1)
        ends = torch.zeros_like(real) if boundary_id is None else (self.tokens == boundary_id).long() * real
        segment = torch.where(real > 0, self.segments + ends, PADDING_SEGMENT)
        segment = torch.cat([state.segment[:, None], segment], 1).cummax(1).values  # padding keeps the one before it
        began = torch.cat([state.began[:, None], torch.where(ends > 0, position[:, 1:], self.began)], 1)
        began = began.cummax(1).values
        rollback = (position, began, segment) if self.keep_rollback else None
        return after(position[:, -1], began[:, -1], segment[:, -1], rollback)


class Log:
    """Whose entries stand in tensors that states share: for each call so far, its mark and how many tokens of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, int]] = []


@dataclass(frozen=True)
class Owner:
    """The last call of a state in its log."""

    log: Log = field(default_factory=Log)
    call: int = 0
    """Calls so far."""
    mark: object = None
    """Of the last one."""
    kept: int = 0
    """Tokens of the last one that the state still has."""

    def check(self) -> None:
        if not self.call:
            return
        mark, kept = self.log.calls[self.call - 1] if self.call <= len(self.log.calls) else (None, 0)
        if mark is not self.mark or kept < self.kept:
            raise StateError(
                "This state's keys were overwritten when an older state of the same conversation was continued. "
                "Branch with state.select(rows) before continuing twice."
            )

    def claim(self, tokens: int) -> None:
        """A call of so many tokens will write behind this state's entries."""
        self.check()
        calls = self.log.calls
        if self.call:
            calls[self.call - 1] = self.mark, self.kept
        calls[self.call :] = [(object(), tokens)]

    def next(self) -> "Owner":
        mark, kept = self.log.calls[self.call]
        return Owner(self.log, self.call + 1, mark, kept)


@dataclass(frozen=True)
class DecodeState(State):
    """The whole conversation so far."""

    layers: tuple[State | None, ...]
    """One state a mixer, None for those that remember nothing."""
    position: Tensor
    """(B,) tokens consumed."""
    began: Tensor
    """(B,) position of the first token of the document that the next token belongs to."""
    segment: Tensor
    """(B,) number of that document."""
    rollback: tuple[Tensor, Tensor, Tensor] | None = None
    """(B, T+1) each: the three before the last call and after each of its tokens."""
    length: int = 0
    """No row is longer than this."""
    level: bool = True
    """Whether every row is exactly as long, so that all write at one place."""
    capacity: int = 0
    """Above 0: all rows look at this many entries, so that no bit depends on the length or on the calls before."""
    owner: Owner | None = None
    """Whose entries stand in tensors that grow; None: no tensor does."""

    @staticmethod
    def new(layers: Sequence[State | None], batch: int, device: torch.device, capacity: int = 0) -> "DecodeState":
        """The state of `batch` conversations that have not begun."""
        zero = torch.zeros(batch, dtype=torch.long, device=device)
        return DecodeState(tuple(layers), zero, zero, zero, capacity=capacity).owned()

    def commit(self, path: Sequence[int]) -> "DecodeState":
        """The state in which only the tokens `path` = 0, 1, ... of the last call have been consumed."""
        if self.rollback is None:
            raise StateError(tree.NO_ROLLBACK)
        tokens, kept = self.rollback[0].shape[1] - 1, len(path)
        if list(path) != list(range(kept)) or kept > tokens:
            raise StateError(
                f"Path {list(path)} is no beginning of the {tokens} tokens of the last call; "
                f"commit 0, 1, ... up to the last token to keep."
            )
        owner = None if self.owner is None else replace(self.owner, kept=kept)
        return replace(super().commit(path), length=self.length - tokens + kept, owner=owner)

    def select(self, rows: Tensor) -> "DecodeState":
        """A copy with these rows, (n,) indices; the copy shares no tensor with this state."""
        if self.owner is not None:
            self.owner.check()
        copy = super().select(rows)
        longest = self.length if self.level or not len(rows) else int(copy.position.max())
        return replace(copy, length=longest).owned()

    @staticmethod
    def join(states: Sequence["DecodeState"]) -> "DecodeState":
        """The rows of all as one batch, in order; the batch shares no tensor with them."""
        for state in states:
            if state.owner is not None:
                state.owner.check()
        lengths = {state.length for state in states}
        return replace(
            tree.joined(states),
            length=max(lengths),
            level=all(state.level for state in states) and len(lengths) == 1,
            capacity=max(state.capacity for state in states),
        ).owned()

    def with_capacity(self, capacity: int) -> "DecodeState":
        """A copy whose rows all look at so many entries."""
        copy = tree.mapped(tree.extended(self, capacity), lambda x, _: x.clone())
        return replace(copy, capacity=capacity).owned()

    def owned(self) -> "DecodeState":
        """The same as the first state of a log of its own."""
        shared = any(axis is not None for _, _, axis in tree.tensors(self.layers))
        return replace(self, owner=Owner() if shared else None)
