"""A conversation between requests: what was said, and what the model made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

from positronic.errors import GenerationError
from positronic.generation.decoding.context import check_context
from positronic.generation.decoding.exact import Exact, find_exact
from positronic.generation.decoding.forward import Mode, prefill
from positronic.generation.requests.memories import memories_in, with_memories
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import DecodeState, Loops, Memory

__all__ = ["Conversation", "exact_for", "memories_alone", "resume"]


@dataclass(frozen=True)
class Conversation:
    """A value: go on from it twice and you have two conversations (after `state.select`, where buffers are shared)."""

    tokens: tuple[int, ...] = ()
    """Every token, of prompts and answers."""
    state: DecodeState | None = field(default=None, repr=False)
    """What the model made of the first of them, at least one short of all; None: they are read again when needed."""
    hidden: Tensor | None = field(default=None, repr=False)
    """(1, D) what the last token was read off."""
    exact: Exact | None = None
    """The width at which the state was made."""
    writes: tuple[tuple[int, bool], ...] = ((0, True),)
    """From which token on test-time memories were written, and from which on frozen (False)."""
    begun: tuple[Memory, ...] = field(default=(), repr=False)
    """The memories that it began with; none: empty ones."""


def exact_for(model: LM, before: Conversation, needed: int, wanted: bool | Exact) -> Exact | None:
    """How an exact request of at most `needed` tokens in all runs; the conversation's own way where it has room."""
    if wanted is False:
        return None
    needed = min(needed, model.config.max_positions)
    given = before.exact if wanted is True else wanted
    if given is not None and given.room >= needed + given.width:
        return given
    if isinstance(wanted, Exact):
        raise GenerationError(
            f"This conversation may reach {needed} tokens and the exact width {wanted.width} was found for "
            f"{wanted.room - wanted.width}; find it for {needed}, or for the model's {model.config.max_positions}."
        )
    return find_exact(model, needed)


def resume(
    model: LM,
    before: Conversation,
    new: Sequence[int],
    *,
    exact: Exact | None = None,
    write_memory: bool = True,
    probe: Probe | None = None,
    loops: Loops = None,
) -> Conversation:
    """`before` and then the tokens `new`, with everything but the last of them in the state.

    Only new tokens are read, unless the state was made at another width or not kept: then each token is read again
    with test-time memories written or frozen as they were when it was read first.
    """
    tokens = (*before.tokens, *new)
    check_context(len(tokens), model.config.max_positions)
    state, hidden = before.state, before.hidden
    if state is None or before.exact != exact:
        state, hidden = model.init_state(1, capacity=0 if exact is None else exact.room), None
        if before.begun:
            state = with_memories(state, before.begun)
    writes = before.writes
    if writes[-1][1] != write_memory:
        known = max(len(before.tokens) - 1, 0) if before.state is None else int(before.state.position[0])
        writes = (*(change for change in writes if change[0] < known), (known, write_memory))
    read, end = int(state.position[0]), len(tokens) - 1
    for (first, written), (until, _) in pairwise((*writes, (end, True))):
        part = tokens[max(first, read) : min(until, end)]
        if part:
            state, hidden = prefill(model, state, [part], Mode(exact, written, probe, loops))
    return Conversation(tokens, state, hidden, exact, writes, before.begun)


def memories_alone(model: LM, conversation: Conversation) -> Conversation:
    """A conversation in which nothing was said yet, and which begins with the memories that this one has."""
    if not any(memories_in(model.init_state(1))):
        raise GenerationError(
            "This model has no memories that could go on alone: no specialists, stations or controllers. Keep the "
            "whole conversation."
        )
    if conversation.tokens and conversation.state is None:
        raise GenerationError("This conversation was kept without its memories; go on with all of it.")
    now = tuple(memory.carried() for memory in memories_in(conversation.state))
    return Conversation(begun=now or conversation.begun)
