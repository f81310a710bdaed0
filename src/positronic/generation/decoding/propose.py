"""Drafts: guesses of the next tokens, worth making only because checking several costs one forward.

A proposer sees the hidden vector that gave the last token, and everything said so far. Whatever it proposes, the text
stays the same up to near-ties (to the bit in exact decoding, see `generation.exact`); only the number of forwards
changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from positronic.errors import GenerationError
from positronic.lm import LM

__all__ = ["NOTHING", "Draft", "Heads", "NGram", "Nothing", "Proposer"]


class Draft(NamedTuple):
    """A chain of proposed tokens."""

    tokens: tuple[int, ...] = ()
    """What may follow the last token, in order."""


class Proposer(Protocol):
    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        """At most `room` tokens to follow `history`, whose last token was read off `hidden` (1, D); None: not known."""
        ...


@dataclass(frozen=True)
class Nothing:
    """Plain decoding."""

    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        return Draft()


NOTHING = Nothing()


@dataclass(frozen=True, kw_only=True)
class NGram:
    """Prompt lookup: what followed the last tokens when they last occurred, copied.

    The longest suffix of the history, of `longest` down to `shortest` tokens, that occurs earlier; of its occurrences
    the latest. A copy that reaches the end of the history goes on copying itself, so a loop of any period is continued.

    Cost     one pass over the history in NumPy, O(S), no index to keep.
    Source   Saxena 2023, "Prompt lookup decoding"; Yang et al. 2023, arXiv 2304.04487.
    """

    longest: int = 4
    """Tokens of the longest suffix looked for."""
    shortest: int = 2
    """Tokens of the shortest suffix that is trusted: 1 drafts more, and is wrong more often where text is sampled."""
    k: int = 4
    """Tokens drafted."""

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest or self.k < 1:
            raise GenerationError(
                f"NGram has shortest {self.shortest}, longest {self.longest}, k {self.k}; "
                f"use 1 <= shortest <= longest and k of 1 or more."
            )

    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        past, k = np.asarray(history), min(self.k, room)
        if len(past) < 2 or k < 1:
            return Draft()
        ends, length = np.flatnonzero(past[:-1] == past[-1]), 1  # where a match of `length` tokens ends
        while length < self.longest and len(ends):
            earlier = ends[ends >= length]
            earlier = earlier[past[earlier - length] == past[-1 - length]]
            if not len(earlier):
                break
            ends, length = earlier, length + 1
        if not len(ends) or length < self.shortest:
            return Draft()
        after = past[ends[-1] + 1 :]
        return Draft(tuple(np.resize(after, k).tolist()))


@dataclass(frozen=True)
class Heads:
    """Self-speculation: what the model's own draft heads guess from the hidden vector, all tokens from one look."""

    model: LM
    """A model with draft heads."""

    def __post_init__(self) -> None:
        if self.model.drafts is None:
            raise GenerationError(
                "Drafts by the model's own heads were asked for, but this model has no draft heads; use NGram, which "
                "copies from the text and needs none."
            )

    @torch.no_grad()
    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        if hidden is None or room < 1:
            return Draft()
        assert self.model.drafts is not None, "checked when this was made"
        logits = self.model.logits(self.model.drafts(hidden)[0, :room])  # (k, W)
        return Draft(tuple(logits.float().cpu().numpy().argmax(-1).tolist()))  # NumPy's ties go to the lowest id
