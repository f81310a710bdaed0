"""Rounds of one row compiled by PyTorch: the same arithmetic in few, large operations.

The first round of an extent compiles, which takes as long as thousands of tokens do; PyTorch keeps what it compiled on
disk (TORCHINDUCTOR_CACHE_DIR), so that another process only reads it. Where there is no compiler, or it fails, rounds
run as they stand, and a warning says so.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from positronic import tree
from positronic.generation.decoding.forward import Mode, call
from positronic.generation.decoding.lane import Said
from positronic.generation.decoding.row import Row
from positronic.generation.decoding.writer import Rows
from positronic.lm import LM
from positronic.state import DecodeState, Loops

__all__ = ["CompiledLane", "Compiling", "compiled_round", "round_of"]

SMALLEST = 256
"""Entries of the smallest extent: every extent is compiled anew."""

log = logging.getLogger(__name__)

Round = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Tensor, list[Tensor]]]
"""Tokens (B, 1) and the tensors of a state -> hidden (B, D), logits (B, W), the tensors of the next state."""


def round_of(model: LM, like: DecodeState, mode: Mode) -> Round:
    """One call of the model for states like this one, whose rows all look at `capacity` entries."""
    paths, options = [path for path, _, _ in tree.tensors(like)], mode.options()

    def run(tokens: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        found = call(model, tokens, tree.filled(like, dict(zip(paths, tensors, strict=True))), options)
        return found.hidden, found.logits, [x for _, x, _ in tree.tensors(found.state)]

    return run


def compiled_round(model: LM, like: DecodeState, mode: Mode) -> Round:
    """The same, compiled."""
    run: Any = round_of(model, like, mode)
    # A code of its own for each: the compiler counts how often it has to compile one again.
    run.__code__ = run.__code__.replace(co_name=f"round_of_{len(like.position)}_rows_over_{like.capacity}")
    compiled: Round = torch.compile(run, dynamic=False)
    return compiled


class Compiling:
    """The compiled rounds of one model, made when first needed."""

    def __init__(self, model: LM):
        self.model = model
        self.rounds: dict[tuple[int, bool, Loops], Round] = {}
        self.failed = False

    def takes(self, row: Row, state: DecodeState) -> bool:
        """Whether rounds of this row may run compiled."""
        alone = not row.alone and row.mode.probe is None and len(state.position) == 1
        return alone and not self.failed

    def round(self, like: DecodeState, mode: Mode) -> Round:
        key = like.capacity, mode.write_memory, mode.loops
        if key not in self.rounds:
            self.rounds[key] = compiled_round(self.model, like, mode)
        return self.rounds[key]

    def give_up(self, error: Exception) -> None:
        self.failed = True
        log.warning("decoding goes on uncompiled, as PyTorch's compiler failed: %s", str(error).split("\n", 1)[0])


class CompiledLane:
    """A lane of one row whose rounds are compiled."""

    def __init__(self, compiling: Compiling, rows: Sequence[Row], state: DecodeState):
        (self.row,) = rows
        self.rows: Sequence[Row] = list(rows)
        self.compiling, self.mode = compiling, self.row.mode
        extent = max(SMALLEST, 1 << (self.row.text.position + self.row.text.left).bit_length())
        self._like = replace(state.with_capacity(extent), level=False, owner=None)
        self._tensors = [x for _, x, _ in tree.tensors(self._like)]
        self._tokens = torch.empty(1, 1, dtype=torch.long, device=state.position.device)

    @property
    def takes_more(self) -> bool:
        return False

    @property
    def state(self) -> DecodeState:
        paths = [path for path, _, _ in tree.tensors(self._like)]
        found = tree.filled(self._like, dict(zip(paths, self._tensors, strict=True)))
        length = self.row.text.position - 1
        return DecodeState.join([replace(found, length=length, level=True, capacity=0)])

    def join(self, rows: Sequence[Row], state: DecodeState) -> None:
        raise AssertionError("compiled rounds are of one row")

    def remove(self, row: Row) -> None:
        self.rows = []

    @torch.no_grad()
    def step(self) -> Said:
        row = self.row
        self._tokens.fill_(row.last)
        hidden, logits, self._tensors = self._called()
        tokens = row.accept((), partial(row.text.draw, Rows(logits)))
        if row.text.reason is None:
            return row.outputs(tokens)
        self.rows = []
        return row.outputs(tokens, self.state, hidden)

    def _called(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        if not self.compiling.failed:
            try:
                return self.compiling.round(self._like, self.mode)(self._tokens, self._tensors)
            except Exception as error:  # whatever a compiler may raise: what it would have made is run as it stands
                self.compiling.give_up(error)
        return round_of(self.compiling.model, self._like, self.mode)(self._tokens, self._tensors)
