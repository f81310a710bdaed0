"""Rounds of plain decoding on CUDA as graphs: the model, its head and the choice of the next token without the host.

A graph belongs to a number of rows and an extent of their states, both rounded up, and works in tensors of its own:

    previous <- state            what stood before this round, for a row that turns out to have ended
    state    <- model(token, state)
    token    <- the best token of the logits, or one drawn (`sampling.device`)

The host launches a round before it has seen what the last one said, and so walks one round behind. Where a row draws
from what was said before (penalties, constraints), the host chooses and the graph holds the model and its head alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from positronic import tree
from positronic.generation.decoding.compiled import compiled_round, round_of
from positronic.generation.decoding.forward import Mode
from positronic.generation.decoding.lane import Batch, Said
from positronic.generation.decoding.row import Row
from positronic.generation.decoding.writer import Rows
from positronic.generation.sampling.device import DeviceSampling
from positronic.generation.sampling.params import not_finite
from positronic.kernels.graphs import capture
from positronic.lm import LM
from positronic.state import DecodeState, Loops

__all__ = ["CapturedLane", "Capturing"]

SMALLEST = 64
"""Entries of the smallest extent."""
WORTH = 16
"""Tokens that a row must have left before a graph is made for it."""
AHEAD = 2
"""Rounds that are under way while the host hears what one has said."""
ROOM = 4
"""Entries that a row needs behind what it has read: those of rounds that are under way."""


class Capturing:
    """The graphs of one model, made when first needed. They hold its parameters where they lie now."""

    def __init__(self, model: LM, compile: bool = False):
        """compile: what is captured is compiled first."""
        self.model, self.compile = model, compile
        self.graphs: dict[tuple[int, int, bool, Loops], Graph] = {}
        self.pool: object = None

    def takes(self, row: Row, state: DecodeState) -> bool:
        """Whether rounds of this row may run as graphs."""
        plain = not row.alone and row.mode.probe is None and isinstance(self.model, nn.Module)
        return plain and state.position.is_cuda and row.text.left >= WORTH

    def graph(self, rows: int, extent: int, mode: Mode, like: DecodeState) -> "Graph":
        """For so many rows and entries at least; `like` is a state of any rows and extent."""
        rows, extent = _rounded(rows, 1), _rounded(extent, SMALLEST)
        key = rows, extent, mode.write_memory, mode.loops
        if key not in self.graphs:
            if self.pool is None:
                self.pool = torch.cuda.graph_pool_handle()
            self.graphs[key] = Graph(self, rows, extent, mode, like)
        return self.graphs[key]


class Graph:
    """One captured round and the tensors that it works in: a place for each row, some of them free."""

    def __init__(self, capturing: Capturing, rows: int, extent: int, mode: Mode, like: DecodeState):
        model, pool = capturing.model, capturing.pool
        device = like.position.device
        first = torch.zeros(rows, dtype=torch.long, device=device)
        blank = tree.mapped(tree.extended(like.select(first), extent), lambda x, _: torch.zeros_like(x))
        self.rows, self.extent = rows, extent
        self.state = replace(blank, length=0, level=False, capacity=extent, owner=None)
        self.tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
        weight = next(iter(model.parameters()))  # type: ignore[attr-defined]
        self.hidden = torch.zeros(rows, model.config.d_model, dtype=weight.dtype, device=device)
        self._taken = torch.zeros(rows, dtype=torch.long, device=device)
        """(B,) 1 where a row stands: places that are free do not move on."""
        self._now = [self.hidden, *_fixed(self.state)]
        self._before = [torch.zeros_like(x) for x in self._now]
        self._model, self.logits = self._captured(capturing, mode)
        self.sampling = DeviceSampling(self.logits, self.tokens, self.state.position, pool)

    def _captured(self, capturing: Capturing, mode: Mode) -> tuple[Callable[[], None], Tensor]:
        model, held = capturing.model, list(tree.tensors(self.state))
        run = compiled_round(model, self.state, mode) if capturing.compile else round_of(model, self.state, mode)

        def once() -> Tensor:
            _copy(self._before, self._now)
            hidden, logits, after = run(self.tokens, [x for _, x, _ in held])
            fixed = [x for x, (_, _, axis) in zip(after, held, strict=True) if axis is None]
            _copy(self._now, [hidden, *fixed])
            self.state.position.mul_(self._taken)
            self.state.began.mul_(self._taken)
            return logits

        with torch.no_grad():
            return capture(once, capturing.pool)

    def launch(self, on_device: bool) -> Tensor:
        """One round of every row. On the device: (rows,) the next tokens, which the next round reads, -1 for logits
        that are not finite. Else the logits (rows, W)."""
        self._model()
        return self.sampling.choose() if on_device else self.logits

    def put(self, place: int, state: DecodeState, tokens: Sequence[int]) -> None:
        """Go on from here on from the rows of a state and their newest tokens."""
        here = slice(place, place + len(tokens))
        for (_, into, axis), (_, given, _) in zip(tree.tensors(self.state), tree.tensors(state), strict=True):
            if axis is not None:
                entries = min(into.shape[axis], given.shape[axis])
                into, given = into.narrow(axis, 0, entries), given.narrow(axis, 0, entries)
            into[here].copy_(given)
        self.tokens[here, 0] = torch.tensor(tokens, device=self.tokens.device)
        self._taken[here] = 1

    def free(self, place: int) -> None:
        """Nobody stands here any more; it is still computed, at its beginning."""
        for x in (self.state.position, self.state.began, self._taken):
            x[place].zero_()
        self.sampling.put(place, None)

    def read(self, places: Sequence[int], lengths: Sequence[int], before: bool = False) -> tuple[DecodeState, Tensor]:
        """A copy of what these places remember, so many tokens each, and their hidden vectors: now, or before the
        last round."""
        found = iter(self._before if before else self._now)
        hidden = next(found)
        state = tree.mapped(self.state, lambda x, axis: next(found) if axis is None else x)
        index = torch.tensor(places, device=self.tokens.device)
        copy = tree.mapped(state, lambda x, _: x[index])
        copy = replace(copy, length=max(lengths), level=len(set(lengths)) == 1, capacity=0)
        return copy.owned(), hidden[index]


class Round:
    """A round that was launched, and who stood where in it."""

    def __init__(self, graph: Graph, rows: Sequence[Row | None]):
        self.rows = list(rows)
        self._tokens = torch.empty(graph.rows, dtype=torch.long, pin_memory=True)
        self._tokens.copy_(graph.launch(on_device=True).flatten(), non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record()

    def heard(self) -> list[int]:
        """The tokens, once they are here."""
        self._done.synchronize()
        return self._tokens.tolist()


class CapturedLane:
    """A lane whose rounds are graphs."""

    def __init__(self, capturing: Capturing, rows: Sequence[Row], state: DecodeState):
        self.capturing, self.mode = capturing, rows[0].mode
        self._places: list[Row | None] = []
        self._launched: list[Round] = []
        self._said: Said = []
        self._hold(rows, state)

    @property
    def rows(self) -> Sequence[Row]:
        return [row for row in self._places if row is not None]

    @property
    def takes_more(self) -> bool:
        return True

    @property
    def state(self) -> DecodeState:
        return self.graph.state

    def join(self, rows: Sequence[Row], state: DecodeState) -> None:
        free = [place for place, row in enumerate(self._places) if row is None]
        longest = max(row.text.position for row in rows)
        if len(free) < len(rows) or longest + ROOM > self.graph.extent:
            here, remembered = self._settled()
            batch = Batch(here, remembered)
            batch.join(rows, state)
            self._hold(batch.rows, batch.state)
            return
        for at, (row, place) in enumerate(zip(rows, free, strict=False)):
            one = torch.tensor([at], device=state.position.device)
            self._put(place, [row], state if len(rows) == 1 else state.select(one))

    def remove(self, row: Row) -> None:
        self._said = [one for one in self._said if one[0] is not row]
        self._leave(self._places.index(row))  # what it says in rounds that are under way is not heard

    def step(self) -> Said:
        """Launch a round, then hear what the one before has said."""
        self._fit()
        rows = self.rows  # none where all have ended in rounds that were under way
        if rows and all(row.text.plain is not None for row in rows):
            left = min(row.text.left for row in rows)
            while len(self._launched) < min(left, AHEAD):
                self._launched.append(Round(self.graph, self._places))
            self._hear()
        elif rows:
            self._settle()
            self._by_the_host()
        said, self._said = self._said, []
        return said

    def _hear(self) -> None:
        """Take down what the oldest launched round has said."""
        told = self._launched.pop(0)
        for place, token in enumerate(told.heard()):
            row = told.rows[place]
            if row is None or row is not self._places[place]:
                continue
            if token < 0:
                raise not_finite()
            self._take(place, row, row.accept((), lambda _, token=token: token))  # type: ignore[misc]

    def _by_the_host(self) -> None:
        logits = Rows(self.graph.launch(on_device=False))
        for place, row in enumerate(list(self._places)):
            if row is not None:
                tokens = row.accept((), lambda _, row=row, place=place: row.text.draw(logits, place))  # type: ignore[misc]
                self._take(place, row, tokens)
        self.graph.tokens.copy_(torch.tensor([[0 if row is None else row.last] for row in self._places]))

    def _take(self, place: int, row: Row, tokens: list[int]) -> None:
        """What a row has said in a round; one that has ended leaves with its state."""
        if row.text.reason is None:
            self._said += row.outputs(tokens)
            return
        state = hidden = None
        if row.wants_state:
            state, hidden = self.graph.read([place], [row.text.position - 1], before=bool(self._launched))
        self._said += row.outputs(tokens, state, hidden)
        self._leave(place)

    def _leave(self, place: int) -> None:
        self._places[place] = None
        self.graph.free(place)

    def _settle(self) -> None:
        while self._launched:
            self._hear()

    def _settled(self) -> tuple[Sequence[Row], DecodeState]:
        """All rows that go on once every launched round is heard, and what they remember."""
        self._settle()
        rows = self.rows
        if not rows:
            return rows, self.graph.state
        places = [place for place, row in enumerate(self._places) if row is not None]
        return rows, self.graph.read(places, [row.text.position - 1 for row in rows])[0]

    def _fit(self) -> None:
        """Another graph where entries no longer fit, or where few rows are left."""
        longest = max(row.text.position for row in self.rows)
        if longest + ROOM <= self.graph.extent and 4 * len(self.rows) > self.graph.rows:
            return
        rows, state = self._settled()
        if rows:
            self._hold(rows, state)

    def _hold(self, rows: Sequence[Row], state: DecodeState) -> None:
        """These rows alone, in a graph that has room for them."""
        longest = max(row.text.position for row in rows)
        self.graph = self.capturing.graph(len(rows), longest + ROOM, self.mode, state)
        self._places = [None] * self.graph.rows
        self._put(0, rows, state)
        for place in range(len(rows), self.graph.rows):
            self.graph.free(place)

    def _put(self, place: int, rows: Sequence[Row], state: DecodeState) -> None:
        """The rows of this state into places from this one on."""
        self.graph.put(place, state, [row.last for row in rows])
        for at, row in enumerate(rows, place):
            self._places[at] = row
            self.graph.sampling.put(at, row.text.plain)


def _fixed(state: DecodeState | None) -> list[Tensor]:
    """The tensors of a state that do not grow."""
    return [x for _, x, axis in tree.tensors(state) if axis is None]


def _copy(into: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Each of `given` into its place, a kernel for each type of numbers."""
    for dtype in {x.dtype for x in into}:
        pairs = [(x, y) for x, y in zip(into, given, strict=True) if x.dtype == dtype]
        torch._foreach_copy_([x for x, _ in pairs], [y for _, y in pairs])  # the library's only copy of many tensors


def _rounded(n: int, least: int) -> int:
    """The smallest power of two from `least` on that is not below n."""
    return max(least, 1 << (n - 1).bit_length())
