"""Reading a prompt: the same forward as everywhere, a few hundred tokens at a time, without asking for logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from positronic.errors import GenerationError
from positronic.generation.wish import wish
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import DecodeState

__all__ = ["CHUNK", "prefill"]

CHUNK = 512
"""Tokens of a row in one call."""


@torch.no_grad()
def prefill(
    model: LM,
    state: DecodeState,
    rows: Sequence[Sequence[int]],
    *,
    chunk: int = CHUNK,
    probe: Probe | None = None,
) -> tuple[DecodeState, Tensor | None]:
    """The state after each row of the batch has read its tokens, and the last hidden vector of each, (B, D).

    Rows of unequal length are padded on the left, where padding changes nothing. No tokens at all: state and None.
    """
    longest = max(len(row) for row in rows)
    held = model.config.max_positions
    for row, before in zip(rows, state.position.tolist(), strict=True):
        if before + len(row) > held:
            raise GenerationError(
                f"The prompt brings the sequence to {before + len(row)} tokens; the model holds {held}. "
                f"Shorten it by {before + len(row) - held}, or start a new conversation."
            )
    device, hidden = state.position.device, None
    padding = [longest - len(row) for row in rows]
    tokens = torch.tensor([[0] * pad + list(row) for pad, row in zip(padding, rows, strict=True)], device=device)
    valid = None
    if any(padding):
        valid = torch.arange(longest, device=device) >= torch.tensor(padding, device=device)[:, None]
    for first in range(0, longest, chunk):
        part = slice(first, first + chunk)
        block = tokens[:, part]
        out = model(block, state, wish(block, valid=None if valid is None else valid[:, part], probe=probe))
        assert out.state is not None, "a call with a state returns one"
        state, hidden = out.state, out.hidden[:, -1]
    return state, hidden
