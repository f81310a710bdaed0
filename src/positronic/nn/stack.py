"""The trunk: mixers one after another, each added to the stream, states and auxiliary losses threaded through.

Beside it the parts that all layers share, each asked once a call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from positronic.config import MixerConfig
from positronic.kernels.attention import Documents
from positronic.lm import MixerOutput
from positronic.state import State, Step

__all__ = ["Residual", "SharedParts", "Stack"]


class Residual(nn.Module):
    """x + mixer(x). What is compiled, recomputed and watched as one block."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def init_state(self, batch: int, room: int = 0) -> State | None:
        return self.mixer.init_state(batch, room)  # type: ignore[operator]

    def forward(self, x: Tensor, step: Step, state: State | None = None) -> MixerOutput:
        y, after, aux = self.mixer(x, step, state)
        return MixerOutput(x + step.tap(self, "branch", y), after, aux)


class Stack(nn.ModuleList):
    """Blocks in order: x (B, T, D) -> x (B, T, D), states after the call, auxiliary losses (B,) summed by name."""

    def __init__(self, *blocks: Residual):
        super().__init__(blocks)
        self.recompute = False
        """Keep only the blocks' inputs in training and run each again on the way back: less memory, more work."""

        mixers = {block.mixer.config: i for i, block in reversed(list(enumerate(blocks)))}
        self._asked = [i for i in mixers.values() if hasattr(blocks[i].mixer, "prepare")]
        """Places of the mixers that want something computed once a call, one for each config."""

    def init_state(self, batch: int, room: int = 0) -> list[State | None]:
        return [block.init_state(batch, room) for block in self]  # type: ignore[operator]

    def prepared(self, step: Step, whole_rows: bool) -> Step:
        """The step with what its mixers want computed once a call; in whole rows, who sees whom."""
        values = {**step.shared, "documents": Documents.of(step.segments) if whole_rows else None}
        for i in self._asked:
            values |= self[i].mixer.prepare(step)  # type: ignore[union-attr, operator]
        return replace(step, shared=values)

    def forward(
        self, x: Tensor, step: Step, states: Sequence[State | None] | None = None
    ) -> tuple[Tensor, list[State | None], Mapping[str, Tensor]]:
        after: list[State | None] = []
        aux: dict[str, Tensor] = {}
        for block, state in zip(self, states or [None] * len(self), strict=True):
            if self.recompute and self.training and state is None:
                x, next_state, losses = checkpoint(block, x, step, None, use_reentrant=False)
            else:
                x, next_state, losses = block(x, step, state)
            after.append(next_state)
            for name, loss in losses.items():
                aux[name] = aux[name] + loss if name in aux else loss
        return x, after, aux


class SharedParts(nn.ModuleDict):
    """What layers share, by name: asked once a call, in order, and put into `Step.shared`."""

    @staticmethod
    def of(layer: Iterable[MixerConfig], vocab_size: int) -> "SharedParts":
        """What the organs of every layer read; all layers are alike."""
        kinds: dict[str, nn.Module] = {}
        for mixer in layer:
            kinds |= mixer.shared_parts(vocab_size)
        return SharedParts(kinds)

    def init_state(self, batch: int, room: int = 0) -> list[State | None]:
        return [part.init_state(batch, room) for part in self.values()]  # type: ignore[operator]

    def forward(self, step: Step, states: Sequence[State | None] | None = None) -> tuple[Step, list[State | None]]:
        """The step with every part's value in `shared`, and the parts' states after the call."""
        values, after = dict(step.shared), []
        for (name, part), state in zip(self.items(), states or [None] * len(self), strict=True):
            values[name], next_state = part(step, state)
            after.append(next_state)
        return replace(step, shared=values), after
