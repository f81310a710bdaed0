"""One call of a model that reads or decodes: where all of decoding meets the model.

    read      many tokens of each row, a few hundred at a time, without asking for logits
    verify    one token of each row, or of one row a token and a draft, with logits

With an `Exact` width every call of `verify` has that many tokens, the live ones first and token 0 in the others, which
are never committed; then the bits of a token do not depend on the draft.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from positronic.generation.decoding.context import check_context
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import DecodeState, ForwardOptions, Loops

__all__ = ["CHUNK", "Exact", "Mode", "Verified", "call", "prefill", "verify"]

CHUNK = 512
"""Tokens of a row in one call."""


@dataclass(frozen=True)
class Exact:
    """How every forward of an exact decode runs."""

    width: int
    """Tokens of every forward; a draft has at most one token less."""
    threads: int
    """Threads of every forward."""
    room: int
    """Tokens preallocated in the state, dummies included: an extent that grew would change the bits."""

    @contextmanager
    def threads_set(self) -> Iterator[None]:
        """Run with these threads; afterwards with as many as before."""
        before = torch.get_num_threads()
        if before == self.threads:
            yield
            return
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class Mode:
    """What is the same for all rows of a call."""

    exact: Exact | None = None
    """At which width; None: as wide as there are tokens."""
    write_memory: bool = True
    """False freezes test-time memories."""
    probe: Probe | None = None
    """Who watches the taps."""
    loops: Loops = None
    """How often a loop in the trunk is passed; None: as usual."""

    def options(self, valid: Tensor | None = None, keep_rollback: bool = False) -> ForwardOptions:
        return ForwardOptions(
            valid=valid,
            keep_rollback=keep_rollback,
            write_memory=self.write_memory,
            probe=self.probe,
            loops=self.loops,
        )


USUAL = Mode()


class Verified(NamedTuple):
    """What a model says behind each live token of a call."""

    hidden: Tensor
    """(n, D): of one row all its tokens, of several rows one each."""
    logits: Tensor
    """(n, W)"""
    state: DecodeState
    """After all tokens; with a rollback where a beginning of them may be kept."""


@torch.no_grad()
def verify(model: LM, rows: Sequence[Sequence[int]], state: DecodeState, mode: Mode = USUAL) -> Verified:
    """Call the model on one token of each row, or on a token and a draft of the only row."""
    live = len(rows[0])
    assert live == 1 or len(rows) == 1, "drafts are checked a row at a time"
    width = live if mode.exact is None else mode.exact.width
    block = torch.tensor([[*row, *[0] * (width - live)] for row in rows], device=state.position.device)
    with nullcontext() if mode.exact is None else mode.exact.threads_set():
        found = call(model, block, state, mode.options(keep_rollback=width > 1))
    return found if width == live else Verified(found.hidden[:live], found.logits[:live], found.state)


def call(model: LM, tokens: Tensor, state: DecodeState, options: ForwardOptions) -> Verified:
    """One call of the model on tokens (B, T), and of its head behind all of them."""
    out = model(tokens, state, options)
    assert out.state is not None, "a call with a state returns one"
    hidden = out.hidden.flatten(0, 1)
    return Verified(hidden, model.logits(hidden), out.state)


@torch.no_grad()
def prefill(
    model: LM,
    state: DecodeState,
    rows: Sequence[Sequence[int]],
    mode: Mode = USUAL,
    *,
    chunk: int = CHUNK,
) -> tuple[DecodeState, Tensor | None]:
    """The state after each row of the batch has read its tokens, and the last hidden vector of each, (B, D).

    Rows of unequal length are padded on the left, where padding changes nothing. No tokens at all: state and None.
    """
    for row, before in zip(rows, state.position.tolist(), strict=True):
        check_context(before + len(row), model.config.max_positions)
    device, hidden = state.position.device, None
    longest = max(len(row) for row in rows)
    padding = [longest - len(row) for row in rows]
    tokens = torch.tensor([[0] * pad + list(row) for pad, row in zip(padding, rows, strict=True)], device=device)
    valid = None
    if any(padding):
        valid = torch.arange(longest, device=device) >= torch.tensor(padding, device=device)[:, None]
    with nullcontext() if mode.exact is None else mode.exact.threads_set():
        for first in range(0, longest, chunk):
            part = slice(first, first + chunk)
            real = None if valid is None else valid[:, part]
            out = model(tokens[:, part], state, mode.options(valid=real))
            assert out.state is not None, "a call with a state returns one"
            state, hidden = out.state, out.hidden[:, -1]
    return state, hidden
