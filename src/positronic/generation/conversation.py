"""A conversation between requests: what was said, and what the model made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from positronic.errors import GenerationError
from positronic.generation.exact import Exact, find_exact
from positronic.generation.prefill import check_room, prefill
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import DecodeState

__all__ = ["Conversation", "exact_for", "go_on"]


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


def go_on(
    model: LM, before: Conversation, new: Sequence[int], *, exact: Exact | None = None, probe: Probe | None = None
) -> Conversation:
    """`before` and then the tokens `new`, with everything but the last of them in the state.

    Only new tokens are read, unless the state was made at another width or not kept.
    """
    tokens = (*before.tokens, *new)
    check_room(len(tokens), model.config.max_positions)
    state, hidden = before.state, before.hidden
    if state is None or before.exact != exact:
        state, hidden = model.init_state(1, room=0 if exact is None else exact.room), None
    read = int(state.position[0])
    if tokens[read:-1]:
        state, hidden = prefill(model, state, [tokens[read:-1]], exact=exact, probe=probe)
    return Conversation(tokens, state, hidden, exact)
