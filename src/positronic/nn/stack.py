"""The trunk: mixers one after another, each added to the stream, states and auxiliary losses threaded through.

Beside it the parts that all layers share, each asked once a call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from positronic.config import MixerConfig
from positronic.kernels.attention import Documents
from positronic.lm import MixerOutput
from positronic.probe import Tap
from positronic.state import State, Step

__all__ = ["Entered", "Passed", "Residual", "SharedParts", "Stack", "Straight", "Walk", "added"]


class Residual(nn.Module):
    """x + mixer(x). What is compiled, recomputed and watched as one block."""

    taps: ClassVar[Mapping[str, Tap]] = {
        "branch": Tap("what the mixer adds to the stream", torch.zeros_like),
    }

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def init_state(self, batch: int, capacity: int = 0) -> State | None:
        return self.mixer.init_state(batch, capacity)  # type: ignore[operator]

    def forward(self, x: Tensor, step: Step, state: State | None = None) -> MixerOutput:
        y, after, aux = self.mixer(x, step, state)
        return MixerOutput(x + step.tap(self, "branch", y), after, aux)

    def enter(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Any, ...]:
        """The same, and behind it what `again` reads; None where the mixer writes nothing."""
        if not hasattr(self.mixer, "write"):
            return *self.forward(x, step, state), None
        context, after = self.mixer.write(x, step, state)  # type: ignore[operator]
        return *MixerOutput(self.again(x, context, step), after), context

    def again(self, x: Tensor, context: Any, step: Step) -> Tensor:
        """x + what the mixer reads from a context for another x of the same tokens."""
        if context is None:
            return self.forward(x, step).y
        return x + step.tap(self, "branch", self.mixer.read(x, context, step))  # type: ignore[operator]


class Passed(NamedTuple):
    """What blocks have made of the stream."""

    x: Tensor
    """(B, T, D)"""
    states: list[State | None]
    """After the call, one a block."""
    aux: Mapping[str, Tensor]
    """Unweighted losses (B,), summed by name."""


class Entered(NamedTuple):
    """A first pass through blocks that will be passed again."""

    passed: Passed
    contexts: list[Any]
    """What each block reads again."""


class Stack(nn.ModuleList):
    """Blocks in order, in sections with names; `forward` passes through all of them once."""

    def __init__(self, *blocks: Residual, sections: Mapping[str, int] | None = None):
        """sections: how many blocks each has, in order; None: one of all."""
        super().__init__(blocks)
        sizes = {"layers": len(blocks)} if sections is None else sections
        ends = list(accumulate(sizes.values(), initial=0))
        assert ends[-1] == len(blocks), "every block stands in one section"
        self.sections = {name: range(*span) for name, span in zip(sizes, pairwise(ends), strict=True)}
        self.recompute = False
        """Keep only the blocks' inputs in training and run each again on the way back: less memory, more work."""

        mixers = {block.mixer.config: i for i, block in reversed(list(enumerate(blocks)))}
        self._asked = [i for i in mixers.values() if hasattr(blocks[i].mixer, "prepare")]
        """Places of the mixers that want something computed once a call, one for each config."""

    def init_state(self, batch: int, capacity: int = 0) -> list[State | None]:
        return [block.init_state(batch, capacity) for block in self]  # type: ignore[operator]

    def prepared(self, step: Step, whole_rows: bool) -> Step:
        """The step with what its mixers want computed once a call; in whole rows, who sees whom."""
        documents = Documents.of(step.segments) if whole_rows else None
        step = replace(step, shared={**step.shared, "documents": documents})
        for i in self._asked:
            wanted = self[i].mixer.prepare(step)  # type: ignore[union-attr, operator]
            step = replace(step, shared={**step.shared, **wanted})
        return step

    def forward(self, x: Tensor, step: Step, states: Sequence[State | None] | None = None) -> Passed:
        return self.through(range(len(self)), x, step, states)

    def through(
        self, places: Sequence[int], x: Tensor, step: Step, states: Sequence[State | None] | None = None
    ) -> Passed:
        """Through these blocks alone, a section's or any others, with the states of these."""
        return self._walk([self[place] for place in places], x, step, states).passed

    def enter(
        self, places: Sequence[int], x: Tensor, step: Step, states: Sequence[State | None] | None = None
    ) -> Entered:
        """The same, and what `again` needs to pass them another time."""
        return self._walk([self[place].enter for place in places], x, step, states)

    def again(self, places: Sequence[int], x: Tensor, contexts: Sequence[Any], step: Step) -> Tensor:
        """Once more through these blocks, whose memories are read as the first pass has written them."""
        for place, context in zip(places, contexts, strict=True):
            x = self._run(self[place].again, x, context, step)
        return x

    def _walk(self, parts: Sequence[Any], x: Tensor, step: Step, states: Sequence[State | None] | None) -> Entered:
        """Through blocks, or what else is called like them, one after another."""
        after: list[State | None] = []
        contexts: list[Any] = []
        aux: Mapping[str, Tensor] = {}
        for part, state in zip(parts, states or [None] * len(parts), strict=True):
            x, next_state, losses, *context = self._run(part, x, step, state)
            after.append(next_state)
            contexts += context
            aux = added(aux, losses) if losses else aux
        return Entered(Passed(x, after, aux), contexts)

    def _run(self, part: Any, x: Tensor, *rest: Any) -> Any:
        """What a block, or one of its methods, makes of x; run again on the way back where asked for."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(part, x, *rest, use_reentrant=False)
        return part(x, *rest)


def added(aux: Mapping[str, Tensor], losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Losses summed by name."""
    return {**aux, **{name: aux[name] + loss if name in aux else loss for name, loss in losses.items()}}


class Walk(Protocol):
    """The way through a trunk: which sections, how often, and when to leave. It may be a module with weights."""

    def init_state(self, trunk: Stack, batch: int, capacity: int = 0) -> list[State | None]:
        """What is remembered before the first token: of a section that is passed twice, twice."""
        ...

    def __call__(self, trunk: Stack, x: Tensor, step: Step, states: Sequence[State | None] | None = None) -> Passed: ...


class Straight:
    """Every section once, in order."""

    def init_state(self, trunk: Stack, batch: int, capacity: int = 0) -> list[State | None]:
        return trunk.init_state(batch, capacity)

    def __call__(self, trunk: Stack, x: Tensor, step: Step, states: Sequence[State | None] | None = None) -> Passed:
        passed: Passed = trunk(x, step, states)
        return passed


class SharedParts(nn.ModuleDict):
    """What layers share, by name: asked once a call, in order, and put into `Step.shared`."""

    @staticmethod
    def of(mixers: Iterable[MixerConfig], vocab_size: int) -> "SharedParts":
        """What the organs of all layers read, once for equal mixers."""
        kinds: dict[str, nn.Module] = {}
        for mixer in dict.fromkeys(mixers):
            kinds |= mixer.shared_parts(vocab_size)
        return SharedParts(kinds)

    def init_state(self, batch: int, capacity: int = 0) -> list[State | None]:
        return [part.init_state(batch, capacity) for part in self.values()]  # type: ignore[operator]

    def forward(self, step: Step, states: Sequence[State | None] | None = None) -> tuple[Step, list[State | None]]:
        """The step with every part's value in `shared`, and the parts' states after the call."""
        values, after = dict(step.shared), []
        for (name, part), state in zip(self.items(), states or [None] * len(self), strict=True):
            values[name], next_state = part(step, state)
            after.append(next_state)
        return replace(step, shared=values), after
