"""The decoding loop: forward over the last token and a draft, acceptance, one commit; for every family and every draft.

    state covers x_1 .. x_n,  last = x_n+1,  draft = d_1 .. d_P
    rows   = model(last, d_1, .. d_P)              one forward
    x_n+2 .. = accepted part of the draft, then one token more
    state' = commit(last and the accepted part)    everything but the newest token, again

Plain decoding is the same loop with an empty draft. With an `Exact` width, every forward has that many rows, the live
ones first and token 0 in the others, which are never committed; then the bits of a row do not depend on the draft.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from positronic.generation.accept import accept
from positronic.generation.exact import Exact
from positronic.generation.propose import NOTHING, Proposer
from positronic.generation.sampling import Sampler
from positronic.generation.writer import FREE, Constraint, Rows, Stop, Writer
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import DecodeState, ForwardOptions

__all__ = ["Emission", "decode"]


@dataclass(frozen=True)
class Emission:
    """One token of the output, and how it came about."""

    token: int
    position: int
    """Its place in the sequence."""
    forwards: int
    """Model calls so far."""
    proposed: int
    """Draft tokens so far."""
    accepted: int
    """Of these, how many were kept: tokens so far = forwards + accepted, at the end of each round."""
    stop_reason: str | None = None
    """At the last token: "eot", "stop_token", "stop_string", "length" or "context"."""
    state: DecodeState | None = None
    """At the last token of a round: the state of everything before that token."""
    hidden: Tensor | None = None
    """(1, D) with the state: what that token was read off."""


def decode(
    model: LM,
    state: DecodeState,
    last: int,
    *,
    sampler: Sampler,
    stop: Stop,
    proposer: Proposer = NOTHING,
    constraint: Constraint = FREE,
    history: Sequence[int] | None = None,
    hidden: Tensor | None = None,
    exact: Exact | None = None,
    write_memory: bool = True,
    probe: Probe | None = None,
) -> Iterator[Emission]:
    """Emit tokens after `state` and then `last`, for one row; nothing at all where the model holds no more.

    history holds every token up to and including `last`: what proposers copy from and the penalty counts; None: last
    alone. hidden (1, D) is what `last` was read off, for proposers. exact fixes the width of every forward.
    write_memory=False freezes test-time memories.
    """
    position = int(state.position[0]) + 1
    past = [last] if history is None else history
    writer = Writer(sampler, stop, constraint, past, position, model.config.max_positions)
    forwards = proposed = accepted = 0
    while writer.reason is None:
        room = writer.left - 1 if exact is None else min(writer.left, exact.width) - 1
        draft = proposer.propose(hidden, writer.past, room).tokens[:room] if room else ()
        position = writer.position
        rows, logits, after = _forward(model, [last, *draft], state, exact, write_memory, probe)
        tokens = accept(draft, partial(writer.draw, Rows(logits)), writer.write)
        state = after if after.trail is None else after.commit(range(len(tokens)))
        hidden, last = rows[:, len(tokens) - 1], tokens[-1]
        forwards, proposed, accepted = forwards + 1, proposed + len(draft), accepted + len(tokens) - 1
        for i, token in enumerate(tokens[:-1]):
            yield Emission(token, position + i, forwards, proposed, accepted)
        yield Emission(last, writer.position - 1, forwards, proposed, accepted, writer.reason, state, hidden)


@torch.no_grad()
def _forward(
    model: LM, live: Sequence[int], state: DecodeState, exact: Exact | None, write_memory: bool, probe: Probe | None
) -> tuple[Tensor, Tensor, DecodeState]:
    """hidden (1, T, D), logits of the live rows (n, W), and the state, with a trail where there is a choice."""
    device = state.position.device
    ask = partial(ForwardOptions, write_memory=write_memory, probe=probe)
    if exact is None:
        block = torch.tensor([live], device=device)
        out = model(block, state, ask(keep_trail=len(live) > 1))
        logits = model.logits(out.hidden[0])
    else:
        block = torch.tensor([[*live, *[0] * (exact.width - len(live))]], device=device)
        with exact.threads_set():
            out = model(block, state, ask(keep_trail=True))
            logits = model.logits(out.hidden)[0, : len(live)]
    assert out.state is not None, "a call with a state returns one"
    return out.hidden, logits, out.state
