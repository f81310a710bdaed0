"""Prompts to text: what a user calls.

    for piece in generate(model, tokenizer, "Once upon a time", seed=1):
        print(piece.text, end="", flush=True)
    piece.result                                             tokens, reason, forwards, seconds, the conversation

A prompt is text to continue, or messages to answer. The conversation that a result carries is a value: given back with
new messages, only these are read.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from positronic.errors import GenerationError
from positronic.generation.conversation import Conversation, exact_for, go_on
from positronic.generation.decode import Emission, decode
from positronic.generation.exact import Exact
from positronic.generation.prompt import Prompt, prompt_ids, stop_reasons, turn_ended
from positronic.generation.propose import NOTHING, Heads, NGram, Proposer
from positronic.generation.result import DraftCount, Result, Seconds
from positronic.generation.room import check_room
from positronic.generation.sampling import Sampler
from positronic.generation.stream import TextStream
from positronic.generation.uncached import Uncached
from positronic.generation.writer import FREE, Constraint, Stop
from positronic.lm import LM
from positronic.probe import Probe
from positronic.text import Tokenizer

__all__ = ["Piece", "generate"]


class Piece(NamedTuple):
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
    *,
    max_new_tokens: int = 256,
    system: str | None = None,
    think: bool = False,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 0.92,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    biases: Mapping[int, float] | None = None,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    constraint: Constraint = FREE,
    cache: bool = True,
    speculative: bool | Proposer = False,
    exact: bool | Exact = False,
    freeze_memory: bool = False,
    state: Conversation | None = None,
    probe: Probe | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Piece]:
    """Continue a text, or answer messages: one piece a token. Settings are checked at the call, not at the first piece.

    An empty prompt starts from the end-of-text token. speculative=True drafts with the model's own heads where it has
    any, else by prompt lookup: the text is the same up to near-ties, which the roundings of wider forwards may decide
    otherwise. exact=True makes text with and without drafts equal to the bit (`generation.exact`).
    cache=False reads everything anew for every token. state goes on from an earlier result, and the prompt is then only
    what is new. freeze_memory=True reads test-time memories and writes none: neither prompt nor answer is left in them.
    """
    sampler = Sampler(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        biases=biases or {},
    )
    if exact and not cache:
        raise GenerationError(
            "exact says how cached tokens are read, and cache=False keeps none; choose one of the two."
        )
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
    check_room(len(before.tokens) + len(new), model.config.max_positions)
    reasons = stop_reasons(tokenizer, prompt)
    stream = TextStream(
        tokenizer.decoder(special=not isinstance(prompt, str)), [stop] if isinstance(stop, str) else stop, reasons
    )
    ending = Stop(tokens=reasons, max_new_tokens=max_new_tokens, heard=stream.hear)
    proposer = speculative if not isinstance(speculative, bool) else _own(model) if speculative else NOTHING
    return _Request(
        model, before, new, sampler, ending, stream, proposer, constraint, cache, exact, not freeze_memory, probe, clock
    ).pieces()


def _own(model: LM) -> Proposer:
    """Drafts from the model's heads; for a model without any, from the text."""
    return NGram() if model.drafts is None else Heads(model)


@dataclass(frozen=True)
class _Request:
    """What was asked, checked and in order."""

    model: LM
    before: Conversation
    new: Sequence[int]
    sampler: Sampler
    stop: Stop
    stream: TextStream
    proposer: Proposer
    constraint: Constraint
    cache: bool
    exact: bool | Exact
    write_memory: bool
    probe: Probe | None
    clock: Callable[[], float]

    def pieces(self) -> Iterator[Piece]:
        begun = self.clock()
        start, emissions = self._begin()
        read = paused = self.clock()
        decoding, said, last = 0.0, [], None
        for last in emissions:
            said.append(last.token)
            if last.stop_reason is None:
                decoding += self.clock() - paused
                yield Piece(self.stream.released.popleft(), last.token)
                paused = self.clock()
        self.stream.finish()
        seconds = Seconds(read - begun, decoding + self.clock() - paused)
        result = self._result(start, said, last, seconds)
        yield Piece("".join(self.stream.released), said[-1] if said else None, result)

    def _begin(self) -> tuple[Conversation, Iterator[Emission]]:
        """Read the prompt; nothing is decoded yet."""
        most = len(self.before.tokens) + len(self.new) + self.stop.max_new_tokens
        exact = exact_for(self.model, self.before, most, self.exact)
        model = self.model if self.cache else Uncached(self.model)
        before = self.before if self.cache else Conversation(self.before.tokens, writes=self.before.writes)
        start = go_on(model, before, self.new, exact=exact, write_memory=self.write_memory, probe=self.probe)
        assert start.state is not None, "a conversation that goes on has a state"
        return start, decode(
            model,
            start.state,
            start.tokens[-1],
            sampler=self.sampler,
            stop=self.stop,
            proposer=self.proposer,
            constraint=self.constraint,
            history=start.tokens,
            hidden=start.hidden,
            exact=exact,
            write_memory=self.write_memory,
            probe=self.probe,
        )

    def _result(self, start: Conversation, said: list[int], last: Emission | None, seconds: Seconds) -> Result:
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
