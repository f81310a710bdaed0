"""Keys and values of all tokens so far, in tensors with room for more.

    entry lead + p of a row    key and value of the row's token at position p
    allowed                    entries from where a token's document began up to the token itself, and those in front

Shapes   keys, values (B, G, C, K) with room for C tokens, G heads of width K; a call adds T tokens.
State    2 G K numbers a token. States of one conversation share the tensors: a commit moves a position, and continuing
         from an older state writes over the entries behind it.
Cost     appending is amortised O(T). Where all rows stand at one place it is a copy, else a scatter.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from positronic.state import State, Step
from positronic.tree import grows, with_room

__all__ = ["KVState", "prepare_seen", "seen"]

SPARE = 64
"""Entries that are made room for at least behind those that a call needs."""


@dataclass(frozen=True)
class KVState(State):
    """Keys and values so far."""

    keys: Tensor = grows(2)
    """(B, G, lead + C, K)"""
    values: Tensor = grows(2)
    """(B, G, lead + C, K)"""
    lead: int = 0
    """Entries in front, which every token sees."""

    @staticmethod
    def new(
        like: Tensor, batch: int, heads: int, width: int, capacity: int = 0, front: Tensor | None = None
    ) -> "KVState":
        """No tokens yet, in the dtype and on the device of `like`, with room for `capacity` of them.

        front (n, K): keys in front of all tokens, whose values are 0.
        """
        lead = 0 if front is None else len(front)
        keys, values = like.new_zeros(2, batch, heads, lead + capacity, width).unbind()
        if front is not None:
            keys[:, :, :lead] = front
        return KVState(keys, values, lead)

    def extend(self, keys: Tensor, values: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor, "KVState"]:
        """Append the T tokens of a call, keys and values (B, G, T, K).

        Returns keys and values (B, G, S, K) of all tokens, who sees whom as (B, 1, T, S) bool, and the next state.
        """
        after = self._with_room(step.reach)
        extent = self.lead + step.reach
        for into, new in ((after.keys, keys), (after.values, values)):
            _write(into, new.to(into.dtype), step, self.lead)
        all_keys, all_values = after.keys[:, :, :extent].to(keys.dtype), after.values[:, :, :extent].to(keys.dtype)
        return all_keys, all_values, seen(step, self.lead), after

    def _with_room(self, tokens: int) -> "KVState":
        """The same with room for so many tokens and some more, doubled so that appending stays cheap."""
        held = self.keys.shape[2] - self.lead
        if tokens <= held:
            return self
        entries = self.lead + max(tokens + SPARE, 2 * held)
        return KVState(with_room(self.keys, 2, entries), with_room(self.values, 2, entries), self.lead)


def seen(step: Step, lead: int = 0) -> Tensor:
    """(B, 1, T, S) bool: which entries of a row each token of the call may look at."""
    found: Tensor | None = step.shared.get(_name(lead))
    return _seen(step, lead) if found is None else found


def prepare_seen(step: Step, lead: int = 0) -> dict[str, Any]:
    """For a mixer's `prepare`: `seen`, once a call; nothing in a call without a state, or where another has asked."""
    return {_name(lead): _seen(step, lead)} if step.reach and _name(lead) not in step.shared else {}


def _name(lead: int) -> str:
    return f"seen {lead}"


def _seen(step: Step, lead: int) -> Tensor:
    assert step.began is not None, "a step that continues a state knows its documents"
    entry = torch.arange(-lead, step.reach, device=step.tokens.device)
    allowed = (entry <= step.positions[..., None]) & (entry >= step.began[..., None])
    return (allowed | (entry < 0) if lead else allowed)[:, None]


def _write(into: Tensor, new: Tensor, step: Step, lead: int) -> None:
    """Put (B, G, T, K) where the entries of the call's tokens stand."""
    if step.first is not None:
        into.narrow(2, lead + step.first, new.shape[2]).copy_(new)
        return
    entries = (step.positions if step.entries is None else step.entries) + lead
    into.scatter_(2, entries[:, None, :, None].expand_as(new), new)
