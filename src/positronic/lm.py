"""The protocols everything else is written against: what touches the residual stream, what is a language model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from torch import Tensor

from positronic.config import ModelConfig
from positronic.state import DecodeState, State, Step

__all__ = ["LM", "NONE", "DraftHead", "Injection", "LMOutput", "Mixer", "MixerOutput"]

NONE: Mapping[str, Tensor] = MappingProxyType({})


class MixerOutput(NamedTuple):
    """What a mixer adds to the stream, what it remembers, and what an objective may weigh."""

    y: Tensor
    """(B, T, D), to be added to the stream."""
    state: State | None = None
    """The state after this call; None when none was given (training) or nothing is remembered."""
    aux: Mapping[str, Tensor] = NONE
    """Unweighted scalars by name: "moe.balance", "metric.triangle"."""


class Mixer(Protocol):
    """Anything that touches the residual stream. It norms its own input; the trunk adds its output.

    The law: tokens fed at once, in pieces, one by one, or as a draft of which a part is then committed, give the same
    outputs and the same final state; padding changes nothing; documents do not see each other.
    """

    def init_state(self, batch: int, room: int = 0) -> State | None:
        """What is remembered before the first token. `room` > 0 preallocates that many tokens and fixes every
        extent that would otherwise grow, so that a row's bits do not depend on how tokens were grouped into calls."""
        ...

    def __call__(self, x: Tensor, step: Step, state: State | None = None) -> MixerOutput: ...


class Injection(Protocol):
    """An organ inside a bank of oscillators or tips: it adds a current (B, T, N) to them."""

    def init_state(self, batch: int, room: int = 0) -> State | None: ...

    def __call__(self, x: Tensor, phases: Tensor, step: Step, state: State | None = None) -> MixerOutput: ...


class DraftHead(Protocol):
    """Guesses of a model about its own future: hidden (B, D) -> logits (B, k, W) for the k tokens after the next."""

    def __call__(self, hidden: Tensor) -> Tensor: ...


class LMOutput(NamedTuple):
    """What a language model says about T tokens; logits are asked for where they are needed."""

    hidden: Tensor
    """(B, T, D) trunk output, before the final norm; what `LM.logits` and the heads read."""
    state: DecodeState | None = None
    """The state after this call; None when none was given."""
    aux: Mapping[str, Tensor] = NONE
    """Unweighted auxiliary losses of all mixers, summed by name."""


class LM(Protocol):
    """A language model: tokens in, hidden vectors out, logits on request, all memory in the state."""

    config: ModelConfig
    drafts: DraftHead | None

    def init_state(self, batch: int, room: int = 0) -> DecodeState: ...

    def __call__(self, tokens: Tensor, state: DecodeState | None = None, step: Step | None = None) -> LMOutput: ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., W), before any temperature or penalty."""
        ...
