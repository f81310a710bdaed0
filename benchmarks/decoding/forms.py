"""The ways to decode one row beside each other: cached, read anew for every token, with drafts, fast and exact.

    cached      plain decoding                      uncached    the same, everything read anew for every token
    n-gram      drafts by prompt lookup             oracle      drafts of 4 that are all right: what drafting can give
    heads       drafts of the model's own heads, if it has any

Greedy throughout, except `sampled`: at temperature 1 with nothing cut off, so that noise is drawn for the whole
vocabulary and drafts are nearly always wrong. With random weights greedy text soon falls into a loop, which drafts
follow; the repetitive prompt is a phrase of 13 tokens, ten times. For every form: forwards, and draft tokens accepted
a forward. Exact forms are left out where no width is exact.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.decoding.subject import Compile, Setting, engine_of
from benchmarks.record import in_turn, ratio, spread
from positronic.errors import GenerationError
from positronic.generation import (
    GREEDY,
    Draft,
    Exact,
    Heads,
    NGram,
    Proposer,
    SamplingParams,
    Stop,
    TokenOutput,
    Uncached,
    decode,
    find_exact,
    prefill,
)
from positronic.lm import LM

__all__ = ["TEXTS", "all_forms", "random_prompts"]

FULL = SamplingParams(temperature=1.0, top_p=1.0)
TEXTS = {
    "prose": "The old road left the village behind the mill and climbed through fields that nobody had mown that "
    "summer. From the ridge one could see the river, the two bridges, and far away the smoke of the town. She had "
    "walked it often as a child, but never alone, and never in the evening. ",
    "repetitive": "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\n" * 4,
}


def random_prompts(model: LM) -> dict[str, list[int]]:
    """About 130 tokens each, of a model that has learned nothing."""
    draw = torch.Generator().manual_seed(0)
    phrase, noise = (torch.randint(model.config.vocab_size, (n,), generator=draw).tolist() for n in (13, 130))
    return {"random": noise, "repetitive": phrase * 10}


def all_forms(model: LM, prompts: dict[str, list[int]], setting: Setting) -> dict[str, Any]:
    """Every form after every prompt."""
    exact: Exact | None = None
    try:
        exact = find_exact(model, max(map(len, prompts.values())) + setting.tokens)
    except GenerationError as error:
        print(error)
    return {name: _after(model, prompt, exact, setting) for name, prompt in prompts.items()}


def _after(model: LM, prompt: Sequence[int], exact: Exact | None, setting: Setting) -> dict[str, Any]:
    """Every form in turn."""
    ends: dict[str, TokenOutput] = {}
    tokens = setting.tokens
    text = [output.token for output in _run(model, prompt, tokens)()]
    oracle = _Oracle(text, len(prompt))
    runs = {
        "cached": _run(model, prompt, tokens),
        "sampled": _run(model, prompt, tokens, sampler=FULL),
        "sampled, n-gram": _run(model, prompt, tokens, sampler=FULL, proposer=NGram()),
        "uncached": _run(Uncached(model), prompt, tokens, compile="off"),
        "n-gram": _run(model, prompt, tokens, proposer=NGram()),
        "oracle": _run(model, prompt, tokens, proposer=oracle),
    }
    if model.drafts is not None:
        runs["heads"] = _run(model, prompt, tokens, proposer=Heads(model))
    if exact is not None:
        proposers: dict[str, Proposer | None] = {"exact": None, "exact, n-gram": NGram(), "exact, oracle": oracle}
        if model.drafts is not None:
            proposers["exact, heads"] = Heads(model)
        for name, proposer in proposers.items():
            runs[name] = _run(model, prompt, tokens, proposer=proposer, exact=exact)

    def timed(name: str, run: Callable[[], list[TokenOutput]]) -> Callable[[], float]:
        return lambda: setting.seconds(lambda: ends.update({name: run()[-1]}))

    seconds = in_turn({name: timed(name, run) for name, run in runs.items()}, rounds=setting.rounds, warmup=1)
    return {
        "prompt_tokens": len(prompt),
        "exact_width": exact and exact.width,
        "exact_threads": exact and exact.threads,
        "forms": {
            name: spread(taken)
            | {
                "tokens_per_s": tokens / spread(taken)["median_s"],
                "times_cached": ratio(seconds["cached"], taken),
                "forwards": ends[name].forwards,
                "proposed": ends[name].proposed,
                "accepted": ends[name].accepted,
                "accepted_a_forward": ends[name].accepted / ends[name].forwards,
            }
            for name, taken in seconds.items()
        },
    }


def _run(
    model: LM,
    prompt: Sequence[int],
    tokens: int,
    *,
    sampler: SamplingParams = GREEDY,
    proposer: Proposer | None = None,
    exact: Exact | None = None,
    compile: Compile = "auto",
) -> Callable[[], list[TokenOutput]]:
    """What decodes `tokens` tokens after the prompt, which is read now."""
    state, hidden = prefill(model, model.init_state(1, capacity=exact.room if exact else 0), [prompt[:-1]])
    how: dict[str, Any] = {"sampler": sampler, "stop": Stop(max_new_tokens=tokens), "hidden": hidden}
    how |= {"exact": exact, "engine": engine_of(model, compile=compile)}
    how |= {} if proposer is None else {"proposer": proposer}
    return lambda: list(decode(model, state, prompt[-1], history=prompt, **how))


class _Oracle:
    """Proposes the true continuation, four tokens at a time."""

    def __init__(self, text: Sequence[int], prompt_tokens: int):
        self.text, self.prompt_tokens = text, prompt_tokens

    def propose(self, hidden: torch.Tensor | None, history: Sequence[int], room: int) -> Draft:
        said = len(history) - self.prompt_tokens
        return Draft(tuple(self.text[said : said + min(4, room)]))
