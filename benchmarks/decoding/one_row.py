"""One row, greedy, from a prompt that has been read: the engine beside the loops that it must beat.

    engine              `generation.decode`, one engine for all rounds; on CUDA its rounds are graphs
    engine, compiled    the same with compile="on", if asked for
    plain loop          token -> model -> argmax, eager
    074ff9c             the loop of that commit in a process of its own, if a checkout of it is given
    Llama, bare loop    the same three lines around Transformers' Llama of the same sizes and its cache
    Llama, generate     Transformers' `generate`, timed from its first token to its last
    Llama, static       the same with a static cache and a compiled forward; on CUDA alone

All tell the host each token as it is said, and all run without gradients. Seconds are of a token. On CUDA the eager
loops say a quarter of the tokens: they have no beginning and no end that would cost anything.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.decoding.against import Against
from benchmarks.decoding.llama import Llama, reason_of
from benchmarks.decoding.subject import Subject, engine_of
from benchmarks.record import in_turn, ratio, spread
from benchmarks.worker import WorkerError
from positronic.generation import GREEDY, Engine, Stop, decode
from positronic.lm import LM
from positronic.state import DecodeState

__all__ = ["BEFORE", "one_row"]

BEFORE = "074ff9c"
"""The commit whose loop is the measure of progress."""


def one_row(subject: Subject, against: Against | None, llama: Llama | None) -> dict[str, Any]:
    """Every form in turn: seconds, tokens a second, and how many times as fast the engine is as each other form."""
    setting, tokens = subject.setting, subject.setting.tokens
    fewer = max(1, tokens // 4) if setting.cuda else tokens
    state, hidden = subject.read
    last, said, missing = subject.prompt[-1], dict[str, list[int]](), dict[str, str]()
    how: dict[str, Any] = {"sampler": GREEDY, "stop": Stop(max_new_tokens=tokens), "hidden": hidden}

    def by(engine: Engine) -> list[int]:
        one_by_one = decode(subject.model, state, last, history=subject.prompt, engine=engine, **how)
        return [one.token for one in one_by_one]

    def timed(name: str, speak: Callable[[], list[int]]) -> Callable[[], float]:
        return lambda: setting.seconds(lambda: said.update({name: speak()})) / len(said[name])

    forms = {
        "engine": timed("engine", partial(by, engine_of(subject.model))),
        "plain loop": timed("plain loop", lambda: plain_loop(subject.model, state, last, fewer)),
    }
    if setting.compiled:
        engine = engine_of(subject.model, compile="on")
        reason = _fails(engine, partial(by, engine))
        if reason is None:
            forms["engine, compiled"] = timed("engine, compiled", partial(by, engine))
        else:
            missing["engine, compiled"] = reason
    if against is not None:
        try:
            against.prepare(subject.name, setting, subject.prompt)
            said[BEFORE] = against.time(fewer)[1]
            forms[BEFORE] = lambda: against.time(fewer)[0] / fewer
        except WorkerError as error:
            missing[BEFORE] = str(error)
    if llama is not None:
        forms["Llama, bare loop"] = lambda: llama.bare(subject.prompt, fewer) / fewer
        forms["Llama, generate"] = lambda: llama.generate(subject.prompt, tokens) / tokens
        if setting.cuda:
            reason = llama.static_fails(subject.prompt, tokens)
            if reason is None:
                forms["Llama, static"] = lambda: llama.generate(subject.prompt, tokens, static=True) / tokens
            else:
                missing["Llama, static"] = reason
    seconds = in_turn(forms, rounds=setting.rounds, warmup=2 if setting.cuda else 1)
    ours = [name for name in seconds if name in setting.engines]
    others = [name for name in seconds if name not in ours]
    return {
        "forms": {
            name: spread(taken) | {"tokens_per_s": 1 / spread(taken)["median_s"]} for name, taken in seconds.items()
        },
        "times": {own: {name: ratio(seconds[name], seconds[own]) for name in others} for own in ours},
        "first_tokens_as_the_engine": {
            name: _alike(of_it, said["engine"]) for name, of_it in said.items() if name != "engine"
        },
        "missing": missing,
    }


@torch.no_grad()
def plain_loop(model: LM, state: DecodeState, last: int, tokens: int) -> list[int]:
    """What anyone would write first."""
    said: list[int] = []
    token = torch.tensor([[last]], device=state.position.device)
    for _ in range(tokens):
        out = model(token, state)
        assert out.state is not None, "a call with a state returns one"
        state = out.state
        token = model.logits(out.hidden[:, -1]).argmax(-1, keepdim=True)
        said.append(int(token))
    return said


def _fails(engine: Engine, run: Callable[[], object]) -> str | None:
    """Why a compiled engine does not run here; None: it does, and is compiled now."""
    try:
        run()
    except Exception as error:  # compilers fail in many ways
        return reason_of(error)
    failed = engine.compiling is not None and engine.compiling.failed
    return "PyTorch's compiler failed; the warning says why" if failed else None


def _alike(a: list[int], b: list[int]) -> dict[str, int]:
    """How many tokens two texts begin with alike: near-ties of random weights fall otherwise in other kernels."""
    both = list(zip(a, b, strict=False))
    return {"alike": next((place for place, (x, y) in enumerate(both) if x != y), len(both)), "of": len(both)}
