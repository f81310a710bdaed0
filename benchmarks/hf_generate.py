"""What Transformers' `generate` costs beside our decoder on the same weights, and how soon the command line answers.

    python -m benchmarks.hf_generate                                    four families, random weights, one thread
    python -m benchmarks.hf_generate --presets moa-tiny --tokens 16 --rounds 2 --starts 2

Both forms read a prompt of 128 tokens and decode greedily; a run whose tokens differ is an error. Goals: `generate`
takes at most 1.3 times as long, and `positronic --help` less than half a second (an empty interpreter beside it).
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.record import alternate, spread, write
from positronic.adapters.hf import PositronicConfig, PositronicForCausalLM
from positronic.generation import GREEDY, Stop, decode, prefill
from positronic.lm import LM
from positronic.models import preset

PRESETS = "tinygpt-15m", "positronic-15m", "mycel-10m", "moa-20m"
PROMPT = 128
COMMANDS = {
    "positronic --help": ["-m", "positronic", "--help"],
    "positronic train --help": ["-m", "positronic", "train", "--help"],
    "nothing": ["-c", "pass"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    found = {name: _model(name, a.tokens, a.rounds) for name in a.presets}
    starts = {name: partial(_start, words) for name, words in COMMANDS.items()}
    seconds = {name: spread(taken) for name, taken in alternate(starts, rounds=a.starts, warmup=1).items()}
    command = f"python -m benchmarks.hf_generate --tokens {a.tokens} --rounds {a.rounds} --starts {a.starts}"
    path = write(
        "hf_generate",
        f"{command} --threads {a.threads}" + ("" if a.presets == PRESETS else f" --presets {' '.join(a.presets)}"),
        {"prompt_tokens": PROMPT, "tokens": a.tokens, "models": found, "startup": seconds},
        packages=("torch", "transformers"),
    )
    for name, forms in found.items():
        print(f"{name}: generate takes {forms['overhead']:.2f} times as long as our decoder")
    for name, taken in seconds.items():
        print(f"{name}: {taken['median_s']:.3f} s")
    print(path)


def _model(name: str, tokens: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = PositronicForCausalLM(PositronicConfig.of(preset(name))).eval()
    prompt = torch.randint(model.config.vocab_size - 128, (PROMPT,))  # no control token
    said: dict[str, list[int]] = {}
    forms: dict[str, Callable[[], None]] = {
        "ours": lambda: said.update(ours=_decoded(model.lm, prompt.tolist(), tokens)),
        "generate": lambda: said.update(generate=_generated(model, prompt, tokens)),
    }
    seconds = alternate(forms, rounds=rounds, warmup=1)
    assert said["ours"] == said["generate"], f"{name} says {said}"
    found = {form: spread(taken) for form, taken in seconds.items()}
    return found | {"overhead": found["generate"]["median_s"] / found["ours"]["median_s"]}


def _decoded(lm: LM, prompt: list[int], tokens: int) -> list[int]:
    state, hidden = prefill(lm, lm.init_state(1), [prompt[:-1]])
    how = {"sampler": GREEDY, "stop": Stop(max_new_tokens=tokens)}
    return [one.token for one in decode(lm, state, prompt[-1], history=prompt, hidden=hidden, **how)]


def _generated(model: PositronicForCausalLM, prompt: torch.Tensor, tokens: int) -> list[int]:
    row = model.generate(prompt[None], max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)[0]
    return row[len(prompt) :].tolist()


def _start(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
