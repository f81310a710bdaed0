"""Rows that are decoded together: one call of the model a round, one token a row, or of one row a draft as well.

    state covers x_1 .. x_n,  last = x_n+1,  draft = d_1 .. d_P
    rows   = model(last, d_1, .. d_P)              one forward
    x_n+2 .. = accepted part of the draft, then one token more
    state' = commit(last and the accepted part)    everything but the newest token, again

Plain decoding is the same round with an empty draft.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch

from positronic.generation.decoding.forward import Mode, verify
from positronic.generation.decoding.row import Row, TokenOutput
from positronic.generation.decoding.writer import Rows
from positronic.lm import LM
from positronic.state import DecodeState

__all__ = ["Batch", "EagerLane", "Lane"]

Said = list[tuple[Row, TokenOutput]]


class Batch:
    """Rows and what they remember, in one order; rows come and go."""

    def __init__(self, rows: Sequence[Row], state: DecodeState):
        self.rows, self.state = list(rows), state

    def join(self, rows: Sequence[Row], state: DecodeState) -> None:
        """More rows, each with its state, behind those that are here."""
        self.state = DecodeState.join([self.state, state]) if self.rows else state
        self.rows += rows

    def part(self, rows: Sequence[Row]) -> DecodeState:
        """What these of the rows remember: a copy, unless they are all."""
        if list(rows) == self.rows:
            return self.state
        places = [self.rows.index(row) for row in rows]
        return self.state.select(torch.tensor(places, device=self.state.position.device))

    def keep(self, rows: Sequence[Row]) -> None:
        """These rows alone stay."""
        if 0 < len(rows) < len(self.rows):
            self.state = self.part(rows)
        self.rows = list(rows)


class Lane(Protocol):
    """What decodes rows of one mode together."""

    mode: Mode

    @property
    def rows(self) -> Sequence[Row]: ...

    @property
    def takes_more(self) -> bool:
        """Whether rows of the same mode may join."""
        ...

    def join(self, rows: Sequence[Row], state: DecodeState) -> None:
        """More rows, each with its state."""
        ...

    def remove(self, row: Row) -> DecodeState:
        """A row leaves before its end; what it remembers of all but its newest token."""
        ...

    def step(self) -> Said:
        """One round: what every row has said, in order. Rows that have ended leave."""
        ...

    @property
    def state(self) -> DecodeState:
        """Of all rows."""
        ...


class EagerLane:
    """Every round is a call of the model as it stands."""

    def __init__(self, model: LM, rows: Sequence[Row], state: DecodeState):
        self.model, self.mode, self.batch = model, rows[0].mode, Batch(rows, state)

    @property
    def rows(self) -> Sequence[Row]:
        return self.batch.rows

    @property
    def takes_more(self) -> bool:
        return not self.rows[0].alone

    @property
    def state(self) -> DecodeState:
        return self.batch.state

    def join(self, rows: Sequence[Row], state: DecodeState) -> None:
        self.batch.join(rows, state)

    def remove(self, row: Row) -> DecodeState:
        left = self.batch.part([row])
        self.batch.keep([other for other in self.rows if other is not row])
        return left

    def step(self) -> Said:
        return self._drafted(self.rows[0]) if len(self.rows) == 1 else self._together()

    def _drafted(self, row: Row) -> Said:
        draft = row.draft()
        found = verify(self.model, [[row.last, *draft]], self.state, self.mode)
        tokens = row.accept(draft, partial(row.text.draw, Rows(found.logits)))
        after = found.state
        self.batch.state = after if after.trail is None else after.commit(range(len(tokens)))
        kept = len(tokens) - 1
        said = row.outputs(tokens, self.state, found.hidden[kept : kept + 1])
        if row.text.reason is not None:
            self.batch.rows = []
        return said

    def _together(self) -> Said:
        found = verify(self.model, [[row.last] for row in self.rows], self.state, self.mode)
        self.batch.state, logits = found.state, Rows(found.logits)
        said: Said = []
        for place, row in enumerate(self.rows):
            tokens = row.accept((), lambda _, row=row, place=place: row.text.draw(logits, place))  # type: ignore[misc]
            left = self.batch.part([row]) if row.text.reason is not None and row.wants_state else None
            said += row.outputs(tokens, left, found.hidden[place : place + 1])
        self.batch.keep([row for row in self.rows if row.text.reason is None])
        return said
