"""Prompts to text: what a user calls.

    for chunk in generate(model, tokenizer, "Once upon a time", seed=1):
        print(chunk.text, end="", flush=True)
    chunk.result                                             tokens, reason, forwards, seconds, the conversation

A prompt is text to continue, or messages to answer. The conversation that a result carries is a value: given back with
new messages, only these are read.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict, Unpack

from positronic.errors import GenerationError
from positronic.generation.decoding.context import check_context
from positronic.generation.decoding.engine import Engine, decode
from positronic.generation.decoding.exact import Exact
from positronic.generation.decoding.propose import NOTHING, Heads, NGram, Proposer
from positronic.generation.decoding.row import TokenOutput
from positronic.generation.decoding.uncached import Uncached
from positronic.generation.decoding.writer import FREE, Constraint, Stop
from positronic.generation.requests.conversation import Conversation, exact_for, resume
from positronic.generation.requests.prompt import Prompt, prompt_ids, stop_reasons, turn_ended
from positronic.generation.requests.result import DraftCount, Result, Seconds
from positronic.generation.requests.stream import TextStream
from positronic.generation.sampling.params import SamplingParams
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import Loops
from positronic.text import Tokenizer

__all__ = ["Sampling", "TextChunk", "generate", "listening", "own_drafts"]


class Sampling(TypedDict, total=False):
    """The fields of `SamplingParams`."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    biases: Mapping[int, float]
    seed: int
    stream: int
    stop: str | Sequence[str]


class TextChunk(NamedTuple):
    """One token of the output and the characters that it completed, perhaps none."""

    text: str
    token: int | None
    """None only where the model had no room for any."""
    result: Result | None = None
    """With the last piece."""


def generate(
    model: LM,
    tokenizer: Tokenizer,
    prompt: Prompt,
    params: SamplingParams | None = None,
    *,
    system: str | None = None,
    think: bool = False,
    constraint: Constraint = FREE,
    cache: bool = True,
    speculative: bool | Proposer = False,
    exact: bool | Exact = False,
    freeze_memory: bool = False,
    loops: Loops = None,
    state: Conversation | None = None,
    probe: Probe | None = None,
    engine: Engine | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **sampling: Unpack[Sampling],
) -> Iterator[TextChunk]:
    """Continue a text, or answer messages: one chunk a token. Settings are checked at the call, not at the first chunk.

    How tokens are drawn is said by `params`, or by its fields: temperature=0, max_new_tokens=100. An empty prompt
    starts from the end-of-text token. speculative=True drafts with the model's own heads where it has any, else by
    prompt lookup: the text is the same up to near-ties, which the roundings of wider forwards may decide otherwise.
    exact=True makes text with and without drafts equal to the bit (`decoding.exact`).
    cache=False reads everything anew for every token. state goes on from an earlier result, and the prompt is then only
    what is new. freeze_memory=True reads test-time memories and writes none: neither prompt nor answer is left in them.
    loops: how often a loop in the trunk is passed, "auto" as often as each token needs; None: as usual.
    engine: one that is idle, to be used again.
    """
    params = replace(params or SamplingParams(), **sampling)
    if exact and not cache:
        raise GenerationError(
            "exact says how cached tokens are read, and cache=False keeps none; choose one of the two."
        )
    model.config.check_loops(loops)
    before = state or Conversation()
    if not cache and before.tokens and {written for _, written in before.writes} != {not freeze_memory}:
        raise GenerationError(
            "cache=False reads the whole conversation anew in one way, and here test-time memories were written for a "
            "part of it and frozen for another; leave the cache on, or begin a new conversation."
        )
    if not cache and before.begun:
        raise GenerationError(
            "cache=False reads everything anew, and this conversation begins with memories of what is no longer there; "
            "leave the cache on."
        )
    if not isinstance(prompt, str):
        before = replace(before, tokens=turn_ended(tokenizer, before.tokens))
    new = prompt_ids(tokenizer, prompt, before.tokens, system=system, think=think)
    check_context(len(before.tokens) + len(new), model.config.max_positions)
    stream, ending = listening(tokenizer, prompt, params)
    proposer = speculative if not isinstance(speculative, bool) else own_drafts(model) if speculative else NOTHING
    return _Request(
        model,
        before,
        new,
        params,
        ending,
        stream,
        proposer,
        constraint,
        cache,
        exact,
        not freeze_memory,
        probe,
        loops,
        engine,
        clock,
    ).chunks()


def listening(tokenizer: Tokenizer, prompt: Prompt, params: SamplingParams) -> tuple[TextStream, Stop]:
    """The text of an answer as it comes, and when it ends."""
    reasons = stop_reasons(tokenizer, prompt)
    stream = TextStream(tokenizer.decoder(special=not isinstance(prompt, str)), params.stop, reasons)
    return stream, Stop(tokens=reasons, max_new_tokens=params.max_new_tokens, heard=stream.hear)


def own_drafts(model: LM) -> Proposer:
    """Drafts from the model's heads; for a model without any, from the text."""
    return NGram() if model.drafts is None else Heads(model)


@dataclass(frozen=True)
class _Request:
    """What was asked, checked and in order."""

    model: LM
    before: Conversation
    new: Sequence[int]
    params: SamplingParams
    stop: Stop
    stream: TextStream
    proposer: Proposer
    constraint: Constraint
    cache: bool
    exact: bool | Exact
    write_memory: bool
    probe: Probe | None
    loops: Loops
    engine: Engine | None
    clock: Callable[[], float]

    def chunks(self) -> Iterator[TextChunk]:
        begun = self.clock()
        start, emissions = self._begin()
        read = paused = self.clock()
        decoding, said, last = 0.0, [], None
        for last in emissions:
            said.append(last.token)
            if last.stop_reason is None:
                decoding += self.clock() - paused
                yield TextChunk(self.stream.released.popleft(), last.token)
                paused = self.clock()
        self.stream.finish()
        seconds = Seconds(read - begun, decoding + self.clock() - paused)
        result = self._result(start, said, last, seconds)
        yield TextChunk("".join(self.stream.released), said[-1] if said else None, result)

    def _begin(self) -> tuple[Conversation, Iterator[TokenOutput]]:
        """Read the prompt; nothing is decoded yet."""
        most = len(self.before.tokens) + len(self.new) + self.stop.max_new_tokens
        exact = exact_for(self.model, self.before, most, self.exact)
        model = self.model if self.cache else Uncached(self.model)
        before = self.before if self.cache else Conversation(self.before.tokens, writes=self.before.writes)
        start = resume(
            model, before, self.new, exact=exact, write_memory=self.write_memory, probe=self.probe, loops=self.loops
        )
        assert start.state is not None, "a conversation that goes on has a state"
        return start, decode(
            model,
            start.state,
            start.tokens[-1],
            sampler=self.params,
            stop=self.stop,
            proposer=self.proposer,
            constraint=self.constraint,
            history=start.tokens,
            hidden=start.hidden,
            exact=exact,
            write_memory=self.write_memory,
            probe=self.probe,
            loops=self.loops,
            engine=self.engine if self.cache else Engine(model, compile="off"),
        )

    def _result(self, start: Conversation, said: list[int], last: TokenOutput | None, seconds: Seconds) -> Result:
        tokens = (*start.tokens, *said)
        if last is None or last.stop_reason is None:
            return Result(len(start.tokens), (), "", "context", 0, DraftCount(0, 0), seconds, start)
        after = replace(start, tokens=tokens, state=last.state, hidden=last.hidden)
        if not self.cache:
            after = Conversation(tokens, writes=start.writes)
        return Result(
            prompt_tokens=len(start.tokens),
            tokens=tuple(said),
            text=self.stream.text,
            stop_reason=last.stop_reason,
            forwards=last.forwards,
            draft=DraftCount(last.proposed, last.accepted),
            seconds=seconds,
            state=after,
        )
