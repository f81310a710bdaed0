"""What a caller asks of one model call; the model's own `Step.of` fills in positions and documents."""

from torch import Tensor

from positronic.probe import Probe
from positronic.state import Step

__all__ = ["wish"]


def wish(
    tokens: Tensor,
    *,
    valid: Tensor | None = None,
    keep_trail: bool = False,
    write_memory: bool = True,
    probe: Probe | None = None,
) -> Step:
    """A step for `tokens` (B, T) whose positions and segments are yet to be counted."""
    return Step(tokens, tokens, valid, keep_trail=keep_trail, write_memory=write_memory, probe=probe)
