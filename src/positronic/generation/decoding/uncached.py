"""Decoding without a cache: the same model, whose state is the tokens themselves.

Every call reads everything again, as in training. It is what the cache is measured against, and a law: the text is the
same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from positronic.lm import LM, LMOutput
from positronic.state import DecodeState, ForwardOptions, State, Step
from positronic.tree import grows

__all__ = ["Uncached"]


@dataclass(frozen=True)
class Read(State):
    """What was read so far."""

    tokens: Tensor = grows(1)
    """(B, S)"""
    valid: Tensor = grows(1)
    """(B, S) False at padding."""
    start: int = 0
    """Length before the last call."""

    def commit(self, path: Sequence[int]) -> "Read":
        kept = self.start + len(path)
        return Read(self.tokens[:, :kept], self.valid[:, :kept], self.start)


class Uncached:
    """A language model that remembers what was said and works the rest out again."""

    def __init__(self, model: LM):
        self.model, self.config = model, model.config
        self.drafts, self.latents = model.drafts, model.latents

    def init_state(self, batch: int, capacity: int = 0) -> DecodeState:
        device = self.model.init_state(batch).position.device
        none = torch.zeros(batch, 0, dtype=torch.long, device=device)
        return DecodeState.new([Read(none, none.bool())], batch, device)

    def __call__(
        self, tokens: Tensor, state: DecodeState | None = None, options: ForwardOptions | None = None
    ) -> LMOutput:
        assert state is not None, "only decoding comes here, and it brings a state"
        read = state.layers[0]
        assert isinstance(read, Read), "the state is one of ours"
        boundary = self.config.boundary_id
        step = Step.of(tokens, state, options, boundary)
        after = Read(torch.cat([read.tokens, tokens], 1), torch.cat([read.valid, step.real], 1), read.tokens.shape[1])
        valid = None if bool(after.valid.all()) else after.valid
        out = self.model(after.tokens, None, replace(step.options, valid=valid, segments=None, keep_rollback=False))
        hidden = out.hidden[:, read.tokens.shape[1] :]
        return LMOutput(hidden, step.next_state(state, [after], boundary), out.aux)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden)
