"""Tokens a second of `positronic train` on the small recipe against a nanoGPT-style loop of equal shape, on a CPU.

    python -m benchmarks.pipeline                          tinygpt-tiny, 2 rows of 512, text that comes with Python

Ours is the run itself: rows from shards, documents kept apart, clipping, AdamW, metrics and events written after every
step. The peers are plain loops: random windows of one array of tokens, forward, backward, clip, fused AdamW, the loss
read back; one trains GPT-2's block at equal width, depth, heads, vocabulary, context and parameters, one the very
layers of ours. Each step of ours is followed by one of each peer in the same process, so that a drift of the machine
hits all alike; validations and checkpoints, which the peers do not have, are left out.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import PlainGPT, SameLayers, plain_step
from benchmarks.record import spread, write
from benchmarks.train_step import equal_peer
from positronic.data import Split, open_source, tokenise
from positronic.data.sources.embedded import gather
from positronic.models import build
from positronic.observe import describe
from positronic.recipes import fit_to, train_run
from positronic.recipes.memory_estimate import BATCH_TOKENS
from positronic.recipes.tiny import VOCABULARY, tiny_model, tiny_run
from positronic.text import train_bpe

WARMUP = 5
OURS = "positronic train"


class Beside:
    """Watches a run: times its steps, and takes one of every peer after each."""

    def __init__(self, peers: dict[str, Callable[[], None]]):
        self.peers, self.left = peers, None
        self.seconds: dict[str, list[float]] = {name: [] for name in (OURS, *peers)}

    def step(self, event: Any) -> None:
        if self.left is not None:
            self.seconds[OURS].append(time.perf_counter() - self.left)
        for name, step in self.peers.items():
            began = time.perf_counter()
            step()
            self.seconds[name].append(time.perf_counter() - began)
        self.left: float | None = time.perf_counter()

    def evaluation(self, event: Any) -> None:
        self.left = None

    def checkpoint(self, event: Any) -> None:
        self.left = None

    def close(self) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(a.steps, Path(folder))
    path = write("pipeline_cpu", f"python -m benchmarks.pipeline --steps {a.steps}", results)
    print(f"{path}: of the peers' tokens per second {results['ratio']}")


def measure(steps: int, folder: Path) -> dict[str, Any]:
    gather(folder)
    text = folder / "english.jsonl"
    tokenizer = train_bpe((document.text for document in open_source(text)), VOCABULARY["tiny"])
    model = fit_to(tiny_model("attention", "tiny"), tokenizer)
    batch_tokens = BATCH_TOKENS["cpu"]
    tokens = tokenise(Split(open_source(text)).train, tokenizer, cache=folder / "cache").tokens
    batch = partial(windows, tokens, batch_tokens // model.context, model.context, torch.Generator().manual_seed(0))
    size = describe(model).total
    plain, same = equal_peer(model, size), SameLayers(cast(nn.Module, build(model.replace(boundary_id=None))))
    peers = {"nanoGPT-style": loop(plain, batch), "plain loop, same layers": loop(same, batch)}
    beside = Beside(peers)
    run = tiny_run(model, [str(text)], batch_tokens=batch_tokens)
    out = folder / "run"
    train_run(run, out, tokenizer=tokenizer, device="cpu", cache=folder / "cache", observers=[beside], until=steps)
    found: dict[str, dict[str, float]] = {}
    for name, seconds in beside.seconds.items():
        timed = spread(seconds[WARMUP:])
        found[name] = timed | {"tokens_per_s": batch_tokens / timed["median_s"]}
    rates = {name: form["tokens_per_s"] for name, form in found.items()}
    return {
        "parameters": {OURS: size, "nanoGPT-style": sum(p.numel() for p in plain.parameters())},
        "rows": batch_tokens // model.context,
        "context": model.context,
        "forms": found,
        "ratio": {name: rates[OURS] / rates[name] for name in peers},
    }


def loop(model: PlainGPT | SameLayers, batch: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """One step of a plain training loop, a new batch each time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return lambda: plain_step(model, optimizer, *batch(), bfloat16=False)


def windows(tokens: np.ndarray, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets (rows, context) at random places of one array, as small training repositories read it."""
    starts = torch.randint(len(tokens) - context, (rows,), generator=generator).tolist()
    cut = torch.stack([torch.from_numpy(tokens[i : i + context + 1].astype(np.int64)) for i in starts])
    return cut[:, :-1].contiguous(), cut[:, 1:].contiguous()


if __name__ == "__main__":
    main()
