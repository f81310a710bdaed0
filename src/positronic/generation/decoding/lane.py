"""Rows that are decoded together: one call of the model a round, one token a row, or of one row a draft as well.

    state covers x_1 .. x_n,  last = x_n+1,  draft = d_1 .. d_P
    rows   = model(last, d_1, .. d_P)              one forward
    x_n+2 .. = accepted part of the draft, then one token more
    state' = commit(last and the accepted part)    everything but the newest token, again

Plain decoding is the same round with an empty draft.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from positronic import tree
from positronic.generation.decoding.forward import Mode, verify
from positronic.generation.decoding.row import Row, TokenOutput
from positronic.generation.decoding.writer import Rows
from positronic.lm import LM
from positronic.state import DecodeState

__all__ = ["Batch", "EagerLane", "Lane"]

Said = list[tuple[Row, TokenOutput]]


class Batch:
    """Rows and what they remember, in one order; rows come and go.

    What grows with every token is not copied when one does: a row that comes is written behind the others, and where
    one has gone the last takes its place.
    """

    def __init__(self, rows: Sequence[Row], state: DecodeState):
        self.rows, self.state = list(rows), state
        self._pools: dict[str, Tensor] = {}
        """By path, the tensors that grow, with room for more rows; the state's are their beginnings."""

    def join(self, rows: Sequence[Row], state: DecodeState) -> None:
        """More rows, each with its state, behind those that are here."""
        if not self.rows:
            self.rows, self.state = list(rows), state
            return
        lengths = self.state.length, state.length
        found: dict[str, Tensor] = {}
        for (path, ours, axis), (_, theirs, _) in zip(tree.tensors(self.state), tree.tensors(state), strict=True):
            found[path] = torch.cat([ours, theirs]) if axis is None else self._behind(path, ours, theirs, axis)
        self.state = replace(
            tree.filled(self.state, found),
            rollback=None,
            length=max(lengths),
            level=self.state.level and state.level and lengths[0] == lengths[1],
        ).owned()
        self.rows += rows

    def _behind(self, path: str, ours: Tensor, theirs: Tensor, axis: int) -> Tensor:
        """A tensor that grows, of all rows."""
        n, more = len(ours), len(theirs)
        pool, entries = self._pools.get(path), max(ours.shape[axis], theirs.shape[axis])
        same = pool is not None and pool.data_ptr() == ours.data_ptr() and pool.shape[axis] == entries
        if pool is None or not same or len(pool) < n + more:
            shape = [1 << (n + more - 1).bit_length(), *ours.shape[1:]]
            shape[axis] = entries
            pool = self._pools[path] = ours.new_zeros(shape)
            pool[:n].narrow(axis, 0, ours.shape[axis]).copy_(ours)
        pool[n : n + more].narrow(axis, 0, theirs.shape[axis]).copy_(theirs)
        return pool[: n + more]

    def part(self, rows: Sequence[Row]) -> DecodeState:
        """What these of the rows remember: a copy, unless they are all and no tensor is shared with rows to come."""
        if list(rows) == self.rows and not self._pools:
            return self.state
        places = [self.rows.index(row) for row in rows]
        return self.state.select(torch.tensor(places, device=self.state.position.device))

    def value(self, ended: bool) -> DecodeState | None:
        """The state of the only row, as it stands; at its end a copy, if rows to come might write over it."""
        if not self._pools:
            return self.state
        return self.part(self.rows) if ended else None

    def keep(self, rows: Sequence[Row]) -> None:
        """These rows alone stay; where one has gone, the last takes its place."""
        kept, order = set(rows), list(self.rows)
        if not kept or len(kept) == len(order):
            self.rows = [row for row in order if row in kept]
            return
        places = list(range(len(order)))
        for place in reversed(range(len(order))):
            if order[place] not in kept:
                order[place], places[place] = order[-1], places[-1]
                order.pop(), places.pop()
        index, moved = torch.tensor(places, device=self.state.position.device), []
        moved = [(to, at) for to, at in enumerate(places) if to != at]
        found: dict[str, Tensor] = {}
        for path, x, axis in tree.tensors(self.state):
            found[path] = x[index] if axis is None else _moved(x, moved, len(places))
        longest = max(row.text.position for row in order)
        self.state = replace(
            tree.filled(self.state, found), rollback=None, length=min(longest, self.state.length)
        ).owned()
        self.rows = order


def _moved(x: Tensor, moved: Sequence[tuple[int, int]], rows: int) -> Tensor:
    """The first rows of x, after these have moved."""
    for to, at in moved:
        x[to].copy_(x[at])
    return x[:rows]


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

    def remove(self, row: Row) -> None:
        """A row leaves before its end."""
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

    def remove(self, row: Row) -> None:
        self.batch.keep([other for other in self.rows if other is not row])

    def step(self) -> Said:
        return self._drafted(self.rows[0]) if len(self.rows) == 1 else self._together()

    def _drafted(self, row: Row) -> Said:
        draft = row.draft()
        found = verify(self.model, [[row.last, *draft]], self.state, self.mode)
        tokens = row.accept(draft, partial(row.text.draw, Rows(found.logits)))
        after = found.state
        self.batch.state = after if after.rollback is None else after.commit(range(len(tokens)))
        kept = len(tokens) - 1
        ended = row.text.reason is not None
        said = row.outputs(tokens, self.batch.value(ended), found.hidden[kept : kept + 1])
        if ended:
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
