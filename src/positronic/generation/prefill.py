"""Reading a prompt: the same forward as everywhere, a few hundred tokens at a time, without asking for logits."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from positronic.generation.exact import Exact
from positronic.generation.room import check_room
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import DecodeState, ForwardOptions

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
    exact: Exact | None = None,
    write_memory: bool = True,
    probe: Probe | None = None,
) -> tuple[DecodeState, Tensor | None]:
    """The state after each row of the batch has read its tokens, and the last hidden vector of each, (B, D).

    Rows of unequal length are padded on the left, where padding changes nothing. No tokens at all: state and None.
    """
    for row, before in zip(rows, state.position.tolist(), strict=True):
        check_room(before + len(row), model.config.max_positions)
    device, hidden = state.position.device, None
    longest = max(len(row) for row in rows)
    padding = [longest - len(row) for row in rows]
    tokens = torch.tensor([[0] * pad + list(row) for pad, row in zip(padding, rows, strict=True)], device=device)
    valid = None
    if any(padding):
        valid = torch.arange(longest, device=device) >= torch.tensor(padding, device=device)[:, None]
    with nullcontext() if exact is None else exact.threads_set():
        for first in range(0, longest, chunk):
            part = slice(first, first + chunk)
            block = tokens[:, part]
            real = None if valid is None else valid[:, part]
            out = model(block, state, ForwardOptions(valid=real, write_memory=write_memory, probe=probe))
            assert out.state is not None, "a call with a state returns one"
            state, hidden = out.state, out.hidden[:, -1]
    return state, hidden
