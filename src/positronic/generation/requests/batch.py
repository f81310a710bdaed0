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
from positronic.state import Loops
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
    loops: Loops = None,
    engine: Engine | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **sampling: Unpack[Sampling],
) -> list[Result]:
    """`generate` for many prompts, texts or messages; results in the order of the prompts."""
    engine, begun = engine or Engine(model, max_rows=ROWS), clock()
    params, mode = replace(params or SamplingParams(), **sampling), Mode(write_memory=not freeze_memory, loops=loops)
    model.config.check_loops(loops)
    asked = _asked(model, tokenizer, prompts, params, mode, system, think, constraint)
    for one in asked:
        one.row.unread = one.prompt[:-1]
        engine.add(one.row)
    return _answered(engine, asked, begun, clock)


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
    loops: Loops = None,
    engine: Engine | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **sampling: Unpack[Sampling],
) -> list[Result]:
    """n answers to one prompt, which is read once; answer i draws from the i-th stream after the parameters' own."""
    engine, begun = engine or Engine(model, max_rows=ROWS), clock()
    params, mode = replace(params or SamplingParams(), **sampling), Mode(write_memory=not freeze_memory, loops=loops)
    model.config.check_loops(loops)
    asked = _asked(model, tokenizer, [prompt] * n, params, mode, system, think, constraint)
    asked[0].row.unread = asked[0].prompt[:-1]
    engine.add_choices([one.row for one in asked])
    return _answered(engine, asked, begun, clock)


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
    prompts: Sequence[Prompt],
    params: SamplingParams,
    mode: Mode,
    system: str | None,
    think: bool,
    constraint: Constraint,
) -> list[_Asked]:
    """A row for each prompt, drawing from streams one after another."""
    held, asked = model.config.max_positions, []
    for number, prompt in enumerate(prompts):
        ids = prompt_ids(tokenizer, prompt, system=system, think=think)
        check_context(len(ids), held)
        own = replace(params, stream=params.stream + number)
        stream, stop = listening(tokenizer, prompt, own)
        text = Writer(own, stop, constraint, ids, len(ids), held)
        asked.append(_Asked(ids, Row(text, mode, wants_state=False), stream, []))
    return asked


def _answered(engine: Engine, asked: Sequence[_Asked], added: float, clock: Callable[[], float]) -> list[Result]:
    """What each has said, once every row has ended."""
    of_row = {one.row: one for one in asked}
    while engine.busy:
        for row, output in engine.step():
            one, now = of_row[row], clock()
            one.begun = one.begun or now
            one.said.append(output.token)
            one.ended = now
    return [one.result(added) for one in asked]
