"""A generation on record: what each token was read as, what was expected after it, what passed at the watched taps.

    recording = record(model, tokenizer, "Once", {"trunk.1.mixer:phase": capture}, tokens=40)
    recording.moments[7].seen["trunk.1.mixer:phase"]              the records of one forward, in the order of its taps

The prompt is read one token at a time, so that it can be replayed like what follows. Expectations are the model's own:
before temperature, penalties and what a sampler cuts off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from positronic.errors import GenerationError
from positronic.generation import GREEDY, Mode, SamplingParams, Stop, decode, prefill
from positronic.generation.decoding.context import check_context
from positronic.generation.requests.prompt import check_text, stop_reasons
from positronic.lm import LM
from positronic.probe import Probe, Verb
from positronic.text import Tokenizer

__all__ = ["Alternative", "Moment", "Recording", "record"]


class Alternative(NamedTuple):
    """A token that might come next."""

    token: int
    probability: float


@dataclass(frozen=True)
class Moment:
    """One forward: a token read, what was expected after it, what came."""

    read: int
    """The token that was read."""
    next: int
    """The token that came after it."""
    drawn: bool
    """The model drew it; False: the prompt went on with it."""
    probability: float
    """Of `next`."""
    alternatives: tuple[Alternative, ...]
    """The most likely next tokens, best first."""
    entropy_bits: float
    """Of the whole distribution."""
    seen: Mapping[str, tuple[Any, ...]]
    """By address, what the verbs recorded in this forward; tensors on the CPU."""


@dataclass(frozen=True)
class Recording:
    """A prompt and how it was continued."""

    prompt: str
    moments: tuple[Moment, ...]
    stop_reason: str
    """Why it ended: eot, length or context."""

    def tapped(self, address: str) -> Tensor | None:
        """(M, ...) what was captured at this address by moment, without the axes of rows and tokens, both 1 long.

        None where nothing was; of a tap that a forward passes more than once, what passed last.
        """
        if address not in self.moments[0].seen:
            return None
        return torch.cat([moment.seen[address][-1] for moment in self.moments]).squeeze(1)


@torch.no_grad()
def record(
    model: LM,
    tokenizer: Tokenizer,
    prompt: str,
    verbs: Mapping[str, Verb],
    *,
    tokens: int,
    sampler: SamplingParams = GREEDY,
    top: int = 8,
) -> Recording:
    """Read `prompt`, draw at most `tokens` more, and take down every forward; `top` alternatives a token."""
    check_text(prompt, "The prompt")
    ids = tokenizer.encode(prompt)
    if not ids:
        raise GenerationError("The prompt is empty after tokenizing, so there is nothing to replay; give it some text.")
    check_context(len(ids), model.config.max_positions)
    probe, state, moments = Probe(cast(nn.Module, model), verbs), model.init_state(1), []
    for read, following in pairwise(ids):
        state, hidden = prefill(model, state, [[read]], Mode(probe=probe))
        moments.append(_moment(model, read, following, False, hidden, probe, top))
    read, reason = ids[-1], "context"
    stop = Stop(tokens=stop_reasons(tokenizer, prompt), max_new_tokens=tokens)
    for said in decode(model, state, read, sampler=sampler, stop=stop, history=ids, probe=probe):
        moments.append(_moment(model, read, said.token, True, said.hidden, probe, top))
        read, reason = said.token, said.stop_reason or reason
    return Recording(prompt, tuple(moments), reason)


def _moment(model: LM, read: int, following: int, drawn: bool, hidden: Tensor | None, probe: Probe, top: int) -> Moment:
    """The moment whose forward gave `hidden` (1, D); what the probe saw in it is handed over."""
    assert hidden is not None, "every forward of one token gives a hidden vector"
    log_p = model.logits(hidden)[0].float().log_softmax(-1)  # (W,)
    entropy = -(log_p.exp() * log_p.clamp(min=-1e4)).sum() / torch.log(log_p.new_tensor(2.0))
    best = log_p.topk(min(top, len(log_p)))
    alternatives = zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
    seen = {address: tuple(map(_on_host, records)) for address, records in probe.seen.items()}
    probe.seen.clear()
    return Moment(
        read,
        following,
        drawn,
        float(log_p[following].exp()),
        tuple(Alternative(*alternative) for alternative in alternatives),
        float(entropy),
        seen,
    )


def _on_host(record: Any) -> Any:
    return record.cpu() if isinstance(record, Tensor) else record
