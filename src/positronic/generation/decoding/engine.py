"""The decoding loop: rows join and leave between rounds, prompts are read between rounds, a part at a time.

    engine = Engine(model)
    engine.add(row)                          what its text holds is read, then it is decoded
    while engine.busy: engine.step()         one part of the prompts that wait, one round of every row that talks

`decode` is the loop for one row whose prompt has been read. All who decode come here: `generate`, batches, the
Transformers adapter's speculation, lm-eval.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from positronic import tree
from positronic.generation.decoding.captured import CapturedLane, Capturing
from positronic.generation.decoding.compiled import CompiledLane, Compiling
from positronic.generation.decoding.context import check_context
from positronic.generation.decoding.forward import CHUNK, Exact, Mode, prefill
from positronic.generation.decoding.lane import Batch, EagerLane, Lane, Said
from positronic.generation.decoding.prefixes import Prefixes
from positronic.generation.decoding.propose import NOTHING, Proposer
from positronic.generation.decoding.row import Row, TokenOutput
from positronic.generation.decoding.writer import FREE, Constraint, Stop, Writer
from positronic.generation.sampling.params import SamplingParams
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import DecodeState, Loops

__all__ = ["Engine", "decode"]


class Engine:
    """Decodes rows of one model, first come first served."""

    def __init__(
        self,
        model: LM,
        *,
        max_rows: int = 16,
        chunk: int = CHUNK,
        prefix_bytes: int = 0,
        compile: Literal["auto", "on", "off"] = "auto",
    ):
        """max_rows that are read or talk at once; chunk: tokens of a prompt that are read between two rounds.

        prefix_bytes: how much may be kept of what rows have read, so that prompts which begin alike read the rest
        alone. compile: auto runs rounds on CUDA as graphs; on has PyTorch compile them, on a CPU those of single rows,
        which takes a minute or more the first time; off calls the model as it stands.
        """
        self.model, self.max_rows, self.chunk = model, max_rows, chunk
        self.prefixes = Prefixes(prefix_bytes)
        self.waiting: list[tuple[Row, DecodeState | None]] = []
        self.reading: list[Batch] = []
        self.lanes: list[Lane] = []
        self.capturing = Capturing(model, compile == "on") if compile != "off" else None
        self.compiling = Compiling(model) if compile == "on" else None
        self._choices: dict[Row, list[Row]] = {}

    @property
    def busy(self) -> bool:
        """Whether any row has not ended."""
        return bool(self.waiting or self.reading or self.lanes)

    def add(self, row: Row, state: DecodeState | None = None) -> None:
        """A row to be read and decoded. state: what stands before its unread tokens; None: nothing, or what is kept of
        a beginning of them."""
        check_context(len(row.unread) + 1, self.model.config.max_positions)
        row.wants_state = row.wants_state or self.prefixes.budget_bytes > 0
        self.waiting.append((row, state))

    def add_choices(self, rows: Sequence[Row], state: DecodeState | None = None) -> None:
        """Several rows with one prompt, which the first brings and which is read once."""
        self.add(rows[0], state)
        self._choices[rows[0]] = list(rows[1:])

    def step(self) -> Said:
        """Read a part of the prompts that wait, then let every row that talks say something: what was said, in order.

        A row whose model has no room for a token says nothing and leaves.
        """
        self._admit()
        self._read()
        said = [one for lane in list(self.lanes) for one in lane.step()]
        self.lanes = [lane for lane in self.lanes if lane.rows]
        for row, output in said:
            if output.stop_reason is not None and output.state is not None and row.from_nothing:
                self.prefixes.keep(row.text.past[:-1], output.state)
        return said

    def cancel(self, row: Row) -> None:
        """The row leaves before the next round, wherever it stands; other choices of its prompt go on."""
        for others in self._choices.values():
            if row in others:
                others.remove(row)
        if others := self._choices.pop(row, []):  # the prompt is read for those who are left
            heir, *rest = others
            heir.unread, heir.from_nothing = row.unread, row.from_nothing
            self._choices[heir] = rest
            self.waiting = [(heir, state) if one is row else (one, state) for one, state in self.waiting]
            for batch in self.reading:
                batch.rows = [heir if one is row else one for one in batch.rows]
            return
        self.waiting = [one for one in self.waiting if one[0] is not row]
        for batch in self.reading:
            batch.keep([other for other in batch.rows if other is not row])
        self.reading = [batch for batch in self.reading if batch.rows]
        for lane in self.lanes:
            if row in lane.rows:
                lane.remove(row)
        self.lanes = [lane for lane in self.lanes if lane.rows]

    def clear(self) -> None:
        """Every row leaves."""
        self.waiting, self.reading, self.lanes, self._choices = [], [], [], {}

    def ledger(self) -> dict[Row, int]:
        """Bytes of state that each row holds, its share of the room included."""
        held = [(batch.rows, batch.state) for batch in self.reading] + [(lane.rows, lane.state) for lane in self.lanes]
        return {row: tree.n_bytes(state) // len(state.position) for rows, state in held for row in rows}

    def _admit(self) -> None:
        """Begin to read rows, in order, while there are places."""
        here = [group.rows for group in self.reading] + [lane.rows for lane in self.lanes]
        places = max(0, self.max_rows - sum(map(len, here)))
        begun, self.waiting = self.waiting[:places], self.waiting[places:]
        for row, state in begun:
            if state is None:
                row.from_nothing = row.mode == Mode()
                state = self._beginning(row)
            if row.text.reason is not None:
                self._choices.pop(row, None)
                continue
            if not row.unread:
                self._read_through([row], state)
                continue
            for batch in self.reading:
                if batch.rows[0].mode == row.mode and row.mode.exact is None:
                    batch.join([row], state)
                    break
            else:
                self.reading.append(Batch([row], state))

    def _beginning(self, row: Row) -> DecodeState:
        """What a row begins from that brings no state."""
        kept = self.prefixes.longest(row.unread) if row.from_nothing else None
        if kept is not None:
            row.unread = row.unread[kept.length :]
            return kept
        return self.model.init_state(1, 0 if row.mode.exact is None else row.mode.exact.room)

    def _read(self) -> None:
        """The next part of every prompt."""
        for batch in self.reading:
            parts = [row.unread[: self.chunk] for row in batch.rows]
            batch.state, hidden = prefill(self.model, batch.state, parts, batch.rows[0].mode, chunk=self.chunk)
            for place, row in enumerate(batch.rows):
                row.unread = row.unread[self.chunk :]
                row.hidden = None if hidden is None else hidden[place : place + 1]
            ready = [row for row in batch.rows if not row.unread]
            if ready:
                self._read_through(ready, batch.part(ready))
                batch.keep([row for row in batch.rows if row.unread])
        self.reading = [batch for batch in self.reading if batch.rows]

    def _read_through(self, rows: Sequence[Row], state: DecodeState) -> None:
        """These prompts have been read: their rows talk, and beside them their other choices."""
        for row in rows:
            if row.from_nothing and self.prefixes.budget_bytes:
                at = torch.tensor([rows.index(row)], device=state.position.device)
                self.prefixes.keep(row.text.past[:-1], state.select(at))
        several = [[row, *self._choices.pop(row, [])] for row in rows]
        if len(rows) < sum(map(len, several)):
            places = [place for place, group in enumerate(several) for _ in group]
            state = state.select(torch.tensor(places, device=state.position.device))
            for group in several:
                for row in group[1:]:
                    row.hidden, row.from_nothing = group[0].hidden, group[0].from_nothing
        self._talk([row for group in several for row in group], state)

    def _talk(self, rows: Sequence[Row], state: DecodeState) -> None:
        """Rows that have been read begin to be decoded."""
        alone = [row for row in rows if row.alone]
        if alone and len(rows) > 1:
            batch = Batch(rows, state)
            for group in (*([row] for row in alone), [row for row in rows if not row.alone]):
                if group:
                    self._talk(group, batch.part(group))
            return
        capturing = self.capturing
        if capturing is not None and not any(capturing.takes(row, state) for row in rows):
            capturing = None
        for at, lane in enumerate(self.lanes):
            if not rows[0].alone and lane.takes_more and lane.mode == rows[0].mode:
                lane.join(rows, state)
                if capturing is not None and isinstance(lane, EagerLane):  # whose rows have too little to say
                    self.lanes[at] = CapturedLane(capturing, lane.rows, lane.state)
                return
        if capturing is not None:
            self.lanes.append(CapturedLane(capturing, rows, state))
        elif self.compiling is not None and self.compiling.takes(rows[0], state):
            self.lanes.append(CompiledLane(self.compiling, rows, state))
        else:
            self.lanes.append(EagerLane(self.model, rows, state))


def decode(
    model: LM,
    state: DecodeState,
    last: int,
    *,
    sampler: SamplingParams,
    stop: Stop,
    proposer: Proposer = NOTHING,
    constraint: Constraint = FREE,
    history: Sequence[int] | None = None,
    hidden: torch.Tensor | None = None,
    exact: Exact | None = None,
    write_memory: bool = True,
    probe: Probe | None = None,
    loops: Loops = None,
    engine: Engine | None = None,
) -> Iterator[TokenOutput]:
    """Emit tokens after `state` and then `last`, for one row; nothing at all where the model holds no more.

    history holds every token up to and including `last`: what proposers copy from and the penalty counts; None: last
    alone. hidden (1, D) is what `last` was read off, for proposers. exact fixes the width of every forward.
    write_memory=False freezes test-time memories. loops: how often a loop in the trunk is passed. engine: one that is
    idle and may be used again.
    """
    position = int(state.position[0]) + 1
    past = [last] if history is None else history
    text = Writer(sampler, stop, constraint, past, position, model.config.max_positions)
    engine = engine or Engine(model)
    engine.add(Row(text, Mode(exact, write_memory, probe, loops), proposer, hidden), state)
    try:
        while engine.busy:
            for _, output in engine.step():
                yield output
    finally:
        if engine.busy:
            engine.clear()
