"""Many prompts at once, of any lengths, and several answers to one; rows join and leave as they begin and end.

Row i draws from the i-th stream after the parameters' own: it says what it would say alone with that stream, up to the
rounding of a batched product. No drafts: how far a draft is right differs from row to row.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from positronic.generation.decoding.context import check_context
from positronic.generation.decoding.engine import Engine
from positronic.generation.decoding.forward import Mode
from positronic.generation.decoding.row import Row
from positronic.generation.decoding.writer import FREE, Constraint, Writer
from positronic.generation.requests.conversation import Conversation
from positronic.generation.requests.generate import Sampling, listening
from positronic.generation.requests.prompt import Prompt, prompt_ids
from positronic.generation.requests.result import DraftCount, Result, Seconds
from positronic.generation.requests.stream import TextStream
from positronic.generation.sampling.params import SamplingParams
from positronic.lm import LM
from positronic.text import Tokenizer

__all__ = ["generate_batch", "generate_choices"]

ROWS = 64
"""Rows that are decoded at once, at most."""


def generate_batch(
    model: LM,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    params: SamplingParams | None = None,
    *,
    system: str | None = None,
    think: bool = False,
    constraint: Constraint = FREE,
    freeze_memory: bool = False,
    engine: Engine | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **sampling: Unpack[Sampling],
) -> list[Result]:
    """`generate` for many prompts, texts or messages; results in the order of the prompts."""
    params = replace(params or SamplingParams(), **sampling)
    engine, begun = engine or Engine(model, max_rows=ROWS), clock()
    asked = [
        _asked(model, tokenizer, prompt, replace(params, stream=params.stream + row), system, think, constraint)
        for row, prompt in enumerate(prompts)
    ]
    for one in asked:
        one.row.mode = Mode(write_memory=not freeze_memory)
        one.row.unread = one.prompt[:-1]
        engine.add(one.row)
    _run(engine, asked, clock)
    return [one.result(begun) for one in asked]


def generate_choices(
    model: LM,
    tokenizer: Tokenizer,
    prompt: Prompt,
    n: int,
    params: SamplingParams | None = None,
    *,
    system: str | None = None,
    think: bool = False,
    constraint: Constraint = FREE,
    freeze_memory: bool = False,
    engine: Engine | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **sampling: Unpack[Sampling],
) -> list[Result]:
    """n answers to one prompt, which is read once; answer i draws from the i-th stream after the parameters' own."""
    params = replace(params or SamplingParams(), **sampling)
    engine, begun = engine or Engine(model, max_rows=ROWS), clock()
    asked = [
        _asked(model, tokenizer, prompt, replace(params, stream=params.stream + i), system, think, constraint)
        for i in range(n)
    ]
    mode = Mode(write_memory=not freeze_memory)
    for one in asked:
        one.row.mode = mode
    asked[0].row.unread = asked[0].prompt[:-1]
    engine.add_choices([one.row for one in asked])
    _run(engine, asked, clock)
    return [one.result(begun) for one in asked]


@dataclass
class _Asked:
    """A prompt, its row, and what has come of it so far."""

    prompt: list[int]
    row: Row
    stream: TextStream
    said: list[int]
    begun: float = 0.0
    ended: float = 0.0

    def result(self, added: float) -> Result:
        self.stream.finish()
        begun = self.begun or self.ended
        seconds = Seconds(begun - added, self.ended - begun)
        tokens, reason = tuple(self.said), self.row.text.reason or "context"
        after = Conversation((*self.prompt, *tokens))
        forwards = self.row.forwards
        return Result(len(self.prompt), tokens, self.stream.text, reason, forwards, DraftCount(0, 0), seconds, after)


def _asked(
    model: LM,
    tokenizer: Tokenizer,
    prompt: Prompt,
    params: SamplingParams,
    system: str | None,
    think: bool,
    constraint: Constraint,
) -> _Asked:
    ids = prompt_ids(tokenizer, prompt, system=system, think=think)
    held = model.config.max_positions
    check_context(len(ids), held)
    stream, stop = listening(tokenizer, prompt, params)
    return _Asked(ids, Row(Writer(params, stop, constraint, ids, len(ids), held), wants_state=False), stream, [])


def _run(engine: Engine, asked: Sequence[_Asked], clock: Callable[[], float]) -> None:
    """Until every row has ended."""
    of_row = {one.row: one for one in asked}
    while engine.busy:
        for row, output in engine.step():
            one, now = of_row[row], clock()
            one.begun = one.begun or now
            one.said.append(output.token)
            one.ended = now
