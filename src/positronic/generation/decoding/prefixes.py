"""What rows have read, kept under its tokens: a prompt that begins alike reads the rest alone.

A state is a function of what was read, test-time memories included, so that one may stand for any conversation that
begins with its tokens. Kept within a bound of bytes, the least used first out.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from positronic import tree
from positronic.state import DecodeState

__all__ = ["Prefixes"]


class Prefixes:
    """States of one row each, by the tokens that they cover."""

    def __init__(self, budget_bytes: int):
        self.budget_bytes = budget_bytes
        self.states: dict[tuple[int, ...], DecodeState] = {}
        """The least used first."""

    @property
    def n_bytes(self) -> int:
        return sum(tree.n_bytes(state) for state in self.states.values())

    def keep(self, tokens: Sequence[int], state: DecodeState) -> None:
        """Keep a copy of a state of one row that has read just these tokens, from nothing on."""
        if not self.budget_bytes or not tokens:
            return
        key = tuple(tokens)
        copy = tree.extended(state.select(torch.zeros(1, dtype=torch.long, device=state.position.device)), len(key))
        self.states.pop(key, None)
        self.states[key] = replace(tree.mapped(copy, lambda x, _: x.clone()), capacity=0)
        while self.states and self.n_bytes > self.budget_bytes:
            self.states.pop(next(iter(self.states)))

    def longest(self, tokens: Sequence[int]) -> DecodeState | None:
        """A copy of the state of the longest kept beginning of these tokens."""
        begun = [key for key in self.states if len(key) <= len(tokens) and key == tuple(tokens[: len(key)])]
        if not begun:
            return None
        key = max(begun, key=len)
        state = self.states[key] = self.states.pop(key)
        return state.select(torch.zeros(1, dtype=torch.long, device=state.position.device))
