"""The trunk: mixers one after another, each added to the stream, states and auxiliary losses threaded through.

Beside it the parts that all layers share, each asked once a call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from positronic.config import MixerConfig
from positronic.kernels.attention import Documents
from positronic.lm import MixerOutput
from positronic.probe import Tap
from positronic.state import State, Step

__all__ = ["Passed", "Residual", "SharedParts", "Stack", "Straight", "Walk"]


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


class Passed(NamedTuple):
    """What blocks have made of the stream."""

    x: Tensor
    """(B, T, D)"""
    states: list[State | None]
    """After the call, one a block."""
    aux: Mapping[str, Tensor]
    """Unweighted losses (B,), summed by name."""


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
        after: list[State | None] = []
        aux: dict[str, Tensor] = {}
        for place, state in zip(places, states or [None] * len(places), strict=True):
            block = self[place]
            if self.recompute and self.training and state is None:
                x, next_state, losses = checkpoint(block, x, step, None, use_reentrant=False)
            else:
                x, next_state, losses = block(x, step, state)
            after.append(next_state)
            for name, loss in losses.items():
                aux[name] = aux[name] + loss if name in aux else loss
        return Passed(x, after, aux)


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
    def of(layer: Iterable[MixerConfig], vocab_size: int) -> "SharedParts":
        """What the organs of every layer read; all layers are alike."""
        kinds: dict[str, nn.Module] = {}
        for mixer in layer:
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
