"""How soon token mixers learn to find what followed a token before: rows that say one random text over and over.

    python runs/copying.py [--steps 300] [--seeds 3] [--out docs/results/copying]

Trunks of four layers and of width 128 are trained by Muon on rows of 96 out of 62 words; a row repeats a random text of
its own, of 16 to 40 words. Where it has begun again every next word can be known; guessing costs ln 62 = 4.13 nats.
Scored are rows that nothing was trained on. Gated delta is trained as it begins, half the channels of its keys being
those of the token before, and with a convolution that is nearly the identity throughout. Writes OUT.json and OUT.md.
Ten minutes a seed on one CPU thread.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from experiment import circumstances, write_json
from torch import Tensor
from torch.nn import functional as F

from positronic.data import TokenBatch
from positronic.lm import LM
from positronic.models import build, preset
from positronic.nn.causal_conv import CausalConv
from positronic.nn.loop import LoopConfig
from positronic.train import Backprop, MuonConfig, NextTokenConfig, pick_device

WORDS, ROWS, LENGTH = 64, 24, 96
SHORTEST, LONGEST = 16, 40
EVERY, WARMUP = 25, 20


def chimera(*pattern: str) -> Any:
    config = preset("chimera-tiny").replace(prelude=1, coda=1, n_layers=4, vocab_size=WORDS, context=LENGTH)
    return config.replace(pattern=pattern, experts=None, looping=LoopConfig(usual=1, mean=0))


def attention() -> Any:
    return preset("control-chimera-tiny").replace(n_layers=4, vocab_size=WORDS, context=LENGTH)


def plain(model: LM) -> None:
    """Begin every convolution as nearly the identity."""
    for module in model.modules():
        if isinstance(module, CausalConv):
            module.shifted = 0
            module.reset_parameters()


GATED_DELTA, FOUR = ("GD",), ("GD", "XM", "GD", "TM")
MODELS: dict[str, tuple[Any, Callable[[LM], None] | None]] = {
    "attention": (attention(), None),
    "gated delta": (chimera(*GATED_DELTA), None),
    "gated delta, nearly the identity": (chimera(*GATED_DELTA), plain),
    "GD XM GD TM": (chimera(*FOUR), None),
    "GD XM GD TM, nearly the identity": (chimera(*FOUR), plain),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results/copying"))
    a = parser.parse_args()
    found: dict[str, list[list[float]]] = {name: [] for name in MODELS}
    for seed in range(a.seeds):
        for name in MODELS:
            found[name].append(list(learn(name, seed, a.steps)))
            print(f"{name}, seed {seed}: {found[name][-1][-1]:.3f} nats after {a.steps} steps", flush=True)
    command = f"python runs/copying.py --steps {a.steps} --seeds {a.seeds}"
    result = {**circumstances(command, "cpu"), "every": EVERY, "nats": found}
    write_json(a.out.with_suffix(".json"), result)
    a.out.with_suffix(".md").write_text("\n".join(page(result)), "utf-8")


def learn(name: str, seed: int, steps: int) -> Iterator[float]:
    """Nats a word that can be known, every so many steps."""
    config, begin = MODELS[name]
    torch.manual_seed(seed)
    model = build(config, seed)
    if begin is not None:
        begin(model)
    objective = NextTokenConfig(z_loss=0.0).build()
    stepper = Backprop(MuonConfig(lr=2e-3).build(model), pick_device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps + 1):
        rows = repeated(generator)
        batch = TokenBatch(rows[:, :-1], rows[:, 1:], torch.ones_like(rows[:, 1:], dtype=torch.bool))
        if step % EVERY == 0:
            yield known(model, batch)
        stepper(model.train(), objective, [batch], objective.counts(batch), min(1.0, (step + 1) / WARMUP))()


def repeated(generator: torch.Generator) -> Tensor:
    """(ROWS, LENGTH + 1) words, each row its own text over and over."""
    period = torch.randint(SHORTEST, LONGEST + 1, (ROWS, 1), generator=generator)
    text = torch.randint(2, WORDS, (ROWS, LENGTH + 1), generator=generator)
    return text.gather(1, torch.arange(LENGTH + 1) % period)


@torch.no_grad()
def known(model: LM, batch: TokenBatch) -> float:
    """Nats a word where every row has begun again."""
    logits = model.eval().logits(model(batch.tokens).hidden).float()
    return F.cross_entropy(logits.mT, batch.targets, reduction="none")[:, LONGEST + 4 :].mean().item()


def page(result: dict[str, Any]) -> list[str]:
    runs = result["nats"]["attention"]
    steps = [EVERY * i for i in range(len(runs[0]))]
    rows = []
    for name, seeds in result["nats"].items():
        middle = [statistics.median(at) for at in zip(*seeds, strict=True)]
        rows.append(f"| {name} | " + " | ".join(f"{nats:.2f}" for nats in middle) + " |")
    return [
        "# How soon a mixer learns to copy",
        "",
        "Nats a word that a reader of its own context knows, by steps of training, the median of "
        f"{len(runs)} seeds; guessing costs 4.13. Four layers of width 128, rows of "
        f"{LENGTH} words that repeat a random text of {SHORTEST} to {LONGEST}, {ROWS} rows a step.",
        "",
        "| trunk | " + " | ".join(map(str, steps)) + " |",
        "|---" * (len(steps) + 1) + "|",
        *rows,
        "",
        "Where half the channels of a gated delta's keys begin as those of the token before, a query meets what "
        "followed it from the start; with a convolution that is nearly the identity that has to be learned first.",
        "",
        f"`{result['command']}` at {result['commit']}",
        "",
    ]


if __name__ == "__main__":
    main()
