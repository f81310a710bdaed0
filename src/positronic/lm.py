"""The protocols everything else is written against: what touches the residual stream, what is a language model."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from positronic.config import ModelConfig
from positronic.state import DecodeState, ForwardOptions, State, Step

__all__ = [
    "FARTHEST",
    "LM",
    "NONE",
    "DraftHeads",
    "Injection",
    "LMOutput",
    "LatentHead",
    "Mixer",
    "MixerOutput",
    "Readout",
    "Rereads",
    "Shared",
]

FARTHEST = 32
"""Tokens ahead that a head may look, at most: as far as batches count their targets."""
NONE: Mapping[str, Tensor] = MappingProxyType({})


class MixerOutput(NamedTuple):
    """What a mixer adds to the stream, what it remembers, and what an objective may weigh."""

    y: Tensor
    """(B, T, D), to be added to the stream."""
    state: State | None = None
    """The state after this call; None when none was given (training) or nothing is remembered."""
    aux: Mapping[str, Tensor] = NONE
    """Unweighted losses of each row (B,) by name, a mean over its real tokens: "moe.balance", "metric.triangle"."""


class Mixer(Protocol):
    """Anything that touches the residual stream. It norms its own input; the trunk adds its output.

    The law: tokens fed at once, in pieces, one by one, or as a draft of which a part is then committed, give the same
    outputs and the same final state; padding changes nothing; documents do not see each other.
    A mixer that wants something computed once a call, for all layers of its config, has also
    `prepare(step) -> dict[str, Any]`, which the trunk asks and puts into `Step.shared`.
    """

    def init_state(self, batch: int, capacity: int = 0) -> State | None:
        """What is remembered before the first token. `capacity` > 0 preallocates that many tokens and fixes every
        extent that would otherwise grow, so that a row's bits do not depend on how tokens were grouped into calls."""
        ...

    def __call__(self, x: Tensor, step: Step, state: State | None = None) -> MixerOutput: ...


class Rereads(Mixer, Protocol):
    """A mixer whose call writes and then reads, so that a loop can read again without writing.

    `__call__` is `read(x, write(x))`; only `nn.loop` knows the parts.
    """

    def write(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Any, State | None]:
        """x (B, T, D) -> the context, and the state after this call. A context is a NamedTuple of tensors that begin
        with the batch, of such tuples and of None, so that rows of it can be taken."""
        ...

    def read(self, x: Tensor, context: Any, step: Step) -> Tensor:
        """Queries of x (B, T, D), of the same tokens, against the context -> y (B, T, D)."""
        ...


class Injection(Protocol):
    """An organ inside a bank of N oscillators: it reads what the bank starts from and adds a current to it."""

    def init_state(self, batch: int, capacity: int = 0) -> State | None: ...

    def __call__(self, x: Tensor, phases: Tensor, step: Step, state: State | None = None) -> MixerOutput:
        """x (B, T, D), normed by the mixer; phases (B, T, N) before any integration -> y (B, T, N), a current."""
        ...


class Readout(Protocol):
    """An organ behind a colony of N tips: it reads where they have grown to and adds to what the colony says."""

    def init_state(self, batch: int, capacity: int = 0) -> State | None: ...

    def __call__(self, x: Tensor, positions: Tensor, step: Step, state: State | None = None) -> MixerOutput:
        """x (B, T, D), normed by the mixer; positions (B, T, N, 3) after all growth -> y (B, T, D)."""
        ...


class Shared(Protocol):
    """What many layers read and one call computes once: a part of the model, its value rides in `Step.shared`."""

    def init_state(self, batch: int, capacity: int = 0) -> State | None: ...

    def __call__(self, step: Step, state: State | None = None) -> tuple[Any, State | None]:
        """The value, tensors of any structure, and the state after this call (None in training)."""
        ...


class DraftHeads(Protocol):
    """Guesses of a model about its own future: head i reads off a hidden vector what is to be said i + 1 tokens later.

    A head gives a hidden vector again, which `LM.logits` reads as it reads the trunk's.
    """

    def __len__(self) -> int: ...

    def __call__(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., k, D): for the k tokens after the next."""
        ...

    def __getitem__(self, index: int) -> Callable[[Tensor], Tensor]:
        """One head alone: (..., D) -> (..., D)."""
        ...


class LatentHead(Protocol):
    """A guess of the trunk's own output some tokens ahead; trained with, never decoded with."""

    ahead: int
    """Tokens between what is read and what is guessed."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        ...


class LMOutput(NamedTuple):
    """What a language model says about T tokens; logits are asked for where they are needed."""

    hidden: Tensor
    """(B, T, D) trunk output, before the final norm; what `LM.logits` and the heads read."""
    state: DecodeState | None = None
    """The state after this call; None when none was given."""
    aux: Mapping[str, Tensor] = NONE
    """Unweighted auxiliary losses of all mixers, (B,), summed by name."""


class LM(Protocol):
    """A language model: tokens in, hidden vectors out, logits on request, all memory in the state."""

    config: ModelConfig
    drafts: DraftHeads | None
    latents: LatentHead | None

    def init_state(self, batch: int, capacity: int = 0) -> DecodeState: ...

    def __call__(
        self, tokens: Tensor, state: DecodeState | None = None, options: ForwardOptions | None = None
    ) -> LMOutput: ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., W), before any temperature or penalty."""
        ...
