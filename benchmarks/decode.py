"""Decoding, tokens a second: cached, read anew for every token, and with drafts, fast and exact, in the same run.

    python -m benchmarks.decode                            a small model of every family, random weights, one thread
    python -m benchmarks.decode --checkpoint FOLDER ...    trained models as well, on text
    python -m benchmarks.decode --threads 2 --tokens 128

Forms, each after the same prompt of about 130 tokens, the prompt itself not timed:
    cached      plain decoding                      uncached    the same, everything read anew for every token
    n-gram      drafts by prompt lookup             oracle      drafts of 4 that are all right: what drafting can give
    heads       drafts of the model's own heads, if it has any
Greedy throughout, except `sampled`: at temperature 1 with nothing cut off, so that noise is drawn for the whole
vocabulary and drafts are nearly always wrong. With random weights greedy text soon falls into a loop, which drafts
follow; the repetitive prompt is a phrase of 13 tokens, ten times. For every form: forwards, and draft tokens accepted
a forward.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import alternate, spread, write
from positronic.checkpoint import load
from positronic.generation import (
    GREEDY,
    Draft,
    Exact,
    Heads,
    NGram,
    Nothing,
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
from positronic.models import build, preset

PRESETS = "tinygpt-15m", "positronic-15m", "mycel-10m", "moa-20m"
FULL = SamplingParams(temperature=1.0, top_p=1.0)
TEXTS = {
    "prose": "The old road left the village behind the mill and climbed through fields that nobody had mown that "
    "summer. From the ridge one could see the river, the two bridges, and far away the smoke of the town. She had "
    "walked it often as a child, but never alone, and never in the evening. ",
    "repetitive": "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\n" * 4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, nargs="*", default=[])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    draw = torch.Generator().manual_seed(0)
    phrase, noise = (torch.randint(16_512, (n,), generator=draw).tolist() for n in (13, 130))
    random = {"random": noise, "repetitive": phrase * 10}
    results = {f"{name}, random weights": _model(build(preset(name)), random, a) for name in PRESETS}
    for folder in a.checkpoint:
        model, tokenizer = load(folder)
        prompts = {name: tokenizer.encode(text) for name, text in TEXTS.items()}
        results[folder.name] = _model(model, prompts, a)
    checkpoints = " ".join(["", "--checkpoint", *(folder.name for folder in a.checkpoint)] if a.checkpoint else [])
    command = f"python -m benchmarks.decode --tokens {a.tokens} --rounds {a.rounds} --threads {a.threads}{checkpoints}"
    path = write("decode", command, {"tokens": a.tokens, "models": results}, packages=("torch", "numpy"))
    for name, model_results in results.items():
        for prompt, found in model_results.items():
            rates = {form: f"{of['tokens_per_s']:.1f} ({of['ratio']:.2f}x)" for form, of in found["forms"].items()}
            print(f"{name}, {prompt}: {rates}")
    print(path)


def _model(model: LM, prompts: dict[str, list[int]], a: argparse.Namespace) -> dict[str, Any]:
    exact = find_exact(model, max(map(len, prompts.values())) + a.tokens)
    return {name: _prompt(model, prompt, exact, a.tokens, a.rounds) for name, prompt in prompts.items()}


def _prompt(model: LM, prompt: Sequence[int], exact: Exact, tokens: int, rounds: int) -> dict[str, Any]:
    """Every form in turn, `rounds` times."""
    ends: dict[str, TokenOutput] = {}
    text = [emission.token for emission in _run(model, prompt, tokens)()]
    runs = {
        "cached": _run(model, prompt, tokens),
        "sampled": _run(model, prompt, tokens, sampler=FULL),
        "sampled, n-gram": _run(model, prompt, tokens, sampler=FULL, proposer=NGram()),
        "uncached": _run(Uncached(model), prompt, tokens),
        "n-gram": _run(model, prompt, tokens, proposer=NGram()),
        "oracle": _run(model, prompt, tokens, proposer=_Oracle(text, len(prompt))),
        "exact": _run(model, prompt, tokens, exact=exact),
        "exact, n-gram": _run(model, prompt, tokens, exact=exact, proposer=NGram()),
        "exact, oracle": _run(model, prompt, tokens, exact=exact, proposer=_Oracle(text, len(prompt))),
    }

    if model.drafts is not None:
        runs["heads"] = _run(model, prompt, tokens, proposer=Heads(model))
        runs["exact, heads"] = _run(model, prompt, tokens, exact=exact, proposer=Heads(model))

    def timed(name: str, run: Callable[[], list[TokenOutput]]) -> Callable[[], None]:
        return lambda: ends.__setitem__(name, run()[-1])

    seconds = alternate({name: timed(name, run) for name, run in runs.items()}, rounds=rounds, warmup=1)
    rates = {name: tokens / spread(taken)["median_s"] for name, taken in seconds.items()}
    return {
        "prompt_tokens": len(prompt),
        "exact_width": exact.width,
        "exact_threads": exact.threads,
        "forms": {
            name: spread(taken)
            | {
                "tokens_per_s": rates[name],
                "ratio": rates[name] / rates["cached"],
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
    proposer: Proposer = Nothing(),  # noqa: B008
    exact: Exact | None = None,
) -> Callable[[], list[TokenOutput]]:
    """What decodes `tokens` tokens after the prompt, which is read now."""
    state, hidden = prefill(model, model.init_state(1, room=exact.room if exact else 0), [prompt[:-1]], exact=exact)
    stop = Stop(max_new_tokens=tokens)
    how = {"sampler": sampler, "stop": stop, "proposer": proposer, "hidden": hidden, "exact": exact}
    return lambda: list(decode(model, state, prompt[-1], history=prompt, **how))


class _Oracle:
    """Proposes the true continuation, four tokens at a time."""

    def __init__(self, text: Sequence[int], prompt_tokens: int):
        self.text, self.prompt_tokens = text, prompt_tokens

    def propose(self, hidden: torch.Tensor | None, history: Sequence[int], room: int) -> Draft:
        said = len(history) - self.prompt_tokens
        return Draft(tuple(self.text[said : said + min(4, room)]))


if __name__ == "__main__":
    main()
