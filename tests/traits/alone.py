"""One organ with what a model would keep for it: runs vectors and phases in pieces, as a model runs tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor

from positronic.nn.stack import SharedParts
from positronic.state import DecodeState, ForwardOptions, Step

CUTS = [(17,), (1, 16), (7, 10), (3, 1, 13), (1,) * 17]


class Alone:
    """`call(step, state, t0, t1)` -> (output (B, t, ...), state) runs the organ on tokens t0 .. t1 of its inputs."""

    def __init__(self, organ, call, batch: int, shared: SharedParts | None = None, capacity: int = 0):
        self.call, self.shared = call, shared or SharedParts()
        layers = [organ.init_state(batch, capacity), *self.shared.init_state(batch, capacity)]
        self.state, self.fed = DecodeState.new(layers, batch, torch.device("cpu")), 0

    def feed(self, tokens: Tensor, **wishes) -> Tensor:
        """Run the organ on the next `tokens` (B, t), which continue what was fed and committed before."""
        step = Step.of(tokens, self.state, ForwardOptions(**wishes))
        step, after = self.shared(step, self.state.layers[1:])
        begin = self.fed
        y, layer = self.call(step, self.state.layers[0], begin, begin + tokens.shape[1])
        self.state, self.fed = step.next_state(self.state, [layer, *after]), begin + tokens.shape[1]
        return y

    def commit(self, kept: int) -> None:
        """Keep `kept` tokens of the last call."""
        self.fed -= self.state.rollback[0].shape[1] - 1 - kept
        self.state = self.state.commit(range(kept))


def at_once(call, tokens: Tensor, shared: SharedParts | None = None, **wishes) -> Tensor:
    """The same without a state, as in training."""
    step = Step.of(tokens, None, ForwardOptions(**wishes))
    step, _ = (shared or SharedParts())(step)
    return call(step, None, 0, tokens.shape[1])[0]


def opened(module: torch.nn.Module, scale: float = 0.3, gates: float = 0.5493) -> torch.nn.Module:
    """Random values everywhere, and every gate at tanh g = 0.5, so that nothing holds because a part is silent."""
    generator = torch.Generator().manual_seed(1)
    parameters: Mapping[str, Tensor] = dict(module.named_parameters())
    with torch.no_grad():
        for name, p in parameters.items():
            if name.rpartition(".")[2] == "g":
                p.fill_(gates)
            else:
                p.normal_(1.0 if p.dim() == 1 else 0.0, scale, generator=generator)
    return module.eval()
