"""Many prompts at once, of unequal length: padded on the left while read, then one token a row and forward.

Rows end independently; a row that has ended leaves the batch. Row i draws from the i-th stream after the sampler's own:
it says what it would say alone with that stream, up to the rounding of a batched product. No drafts: how far a draft is
right differs from row to row.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from positronic.generation.conversation import Conversation
from positronic.generation.prefill import prefill
from positronic.generation.prompt import Prompt, prompt_ids, stop_reasons
from positronic.generation.result import DraftCount, Result, Seconds
from positronic.generation.room import check_room
from positronic.generation.sampling import Sampler
from positronic.generation.stream import TextStream
from positronic.generation.writer import FREE, Constraint, Rows, Stop, Writer
from positronic.lm import LM
from positronic.state import DecodeState
from positronic.text import Tokenizer

__all__ = ["BatchEmission", "decode_batch", "generate_batch", "read_batch"]


def generate_batch(
    model: LM,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    sampler: Sampler = Sampler(),  # noqa: B008  a frozen value
    max_new_tokens: int = 256,
    system: str | None = None,
    think: bool = False,
    stop: str | Sequence[str] = (),
    constraint: Constraint = FREE,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """`generate` for many prompts, texts or messages, in one batch; results in the order of the prompts."""
    rows = [prompt_ids(tokenizer, prompt, system=system, think=think) for prompt in prompts]
    if not rows:
        return []
    reasons = [stop_reasons(tokenizer, prompt) for prompt in prompts]
    streams = [
        TextStream(tokenizer.decoder(special=not isinstance(prompt, str)), stop, silent)
        for prompt, silent in zip(prompts, reasons, strict=True)
    ]
    stops = [
        Stop(tokens=tokens, max_new_tokens=max_new_tokens, heard=stream.hear)
        for tokens, stream in zip(reasons, streams, strict=True)
    ]
    begun = clock()
    state = read_batch(model, rows)
    read = clock()
    said: list[list[int]] = [[] for _ in rows]
    ends = [(0, "context", 0.0)] * len(rows)
    for row, token, forwards, reason in decode_batch(
        model, state, rows, sampler=sampler, stops=stops, constraint=constraint
    ):
        said[row].append(token)
        if reason is not None:
            ends[row] = forwards, reason, clock() - read
    results = []
    for prompt, tokens, stream, (forwards, reason, seconds) in zip(rows, said, streams, ends, strict=True):
        stream.finish()
        after = Conversation((*prompt, *tokens))
        took = Seconds(read - begun, seconds)
        results.append(Result(len(prompt), tuple(tokens), stream.text, reason, forwards, DraftCount(0, 0), took, after))
    return results


class BatchEmission(NamedTuple):
    row: int
    token: int
    forwards: int
    """Model calls so far."""
    stop_reason: str | None


def read_batch(model: LM, prompts: Sequence[Sequence[int]]) -> DecodeState:
    """The state of all tokens of each prompt but its last."""
    for prompt in prompts:
        check_room(len(prompt), model.config.max_positions)
    return prefill(model, model.init_state(len(prompts)), [prompt[:-1] for prompt in prompts])[0]


def decode_batch(
    model: LM,
    state: DecodeState,
    prompts: Sequence[Sequence[int]],
    *,
    sampler: Sampler,
    stops: Sequence[Stop],
    constraint: Constraint = FREE,
) -> Iterator[BatchEmission]:
    """Emit tokens after `state` and the last token of each prompt, round by round, rows in order."""
    held = model.config.max_positions
    writers = [
        Writer(replace(sampler, stream=sampler.stream + row), stop, constraint, prompt, len(prompt), held)
        for row, (prompt, stop) in enumerate(zip(prompts, stops, strict=True))
    ]
    last, forwards = [prompt[-1] for prompt in prompts], 0
    live = list(range(len(prompts)))
    while True:
        going = [i for i, row in enumerate(live) if writers[row].reason is None]
        if len(going) < len(live):
            live = [live[i] for i in going]
            if not live:
                return
            state = state.select(torch.tensor(going, device=state.position.device))
        logits, state = _forward(model, [last[row] for row in live], state)
        forwards, rows = forwards + 1, Rows(logits)
        for i, row in enumerate(live):
            writer = writers[row]
            last[row] = writer.draw(rows, i)
            writer.write(last[row])
            yield BatchEmission(row, last[row], forwards, writer.reason)


@torch.no_grad()
def _forward(model: LM, last: Sequence[int], state: DecodeState) -> tuple[Tensor, DecodeState]:
    """Logits (B, W) after one token a row."""
    block = torch.tensor(last, device=state.position.device)[:, None]
    out = model(block, state)
    assert out.state is not None, "a call with a state returns one"
    return model.logits(out.hidden[:, -1]), out.state
