"""Training steps of this tree against those of another commit, in processes of their own that take turns.

    python -m benchmarks.training_rates --against FOLDER                   CPU: the tiny presets, 8 rows of 256
    python -m benchmarks.training_rates --against FOLDER --device cuda     rows of 1,024 in bfloat16, blocks compiled

Both read the same random tokens with ends of documents in them, through the stepper with AdamW, as `train` does.
On CUDA all models are built and compiled at once, then measured one at a time. `ratio`: our rate over theirs.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, in_turn, ratio, spread, write
from benchmarks.worker import Worker

WORKER = Path(__file__).with_name("training_worker.py")
OURS = Path(__file__).parents[1]
PRESETS = {
    "cpu": {"tinygpt-tiny": 8, "positronic-tiny": 8, "mycel-tiny": 8, "moa-tiny": 8},
    "cuda": {"tinygpt-15m": 32, "positronic-15m": 32, "mycel-10m": 32, "moa-20m": 16},
}
"""Rows of a batch, by preset."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="FOLDER", required=True, help="a checkout of the other commit")
    parser.add_argument("--device", choices=tuple(PRESETS), default="cpu")
    parser.add_argument("--presets", nargs="+", default=None)
    parser.add_argument("--steps", type=int, default=None, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--to", type=Path, default=RESULTS, help="folder of the results")
    a = parser.parse_args()
    rows = {name: PRESETS[a.device].get(name, 16) for name in a.presets or PRESETS[a.device]}
    steps = a.steps or (10 if a.device == "cuda" else 2)
    context = 1024 if a.device == "cuda" else 256
    with ExitStack() as stack:
        pairs = {
            name: {
                side: stack.enter_context(Worker(WORKER, tree))
                for side, tree in (("ours", OURS), ("theirs", a.against))
            }
            for name in rows
        }
        build: list[Callable[[], Any]] = [
            partial(worker.ask, do="prepare", preset=name, rows=rows[name], context=context, device=a.device)
            for name, pair in pairs.items()
            for worker in pair.values()
        ]
        _at_once(build, len(build) if a.device == "cuda" else 1)
        found = {name: _measure(pair, rows[name] * context, steps, a.rounds) for name, pair in pairs.items()}
    how = f"--device {a.device} --presets {' '.join(rows)} --steps {steps} --rounds {a.rounds}"
    command = f"python -m benchmarks.training_rates --against FOLDER {how}"
    path = write(f"training_rates_{a.device}", command, {"presets": found}, packages=("torch", "triton"), to=a.to)
    for name, one in found.items():
        rate = one["ratio"]
        print(f"{name}: {rate['median']:.3f} of the other's rate ({rate['min']:.3f} to {rate['max']:.3f})")
    print(path)


def _at_once(tasks: Sequence[Callable[[], Any]], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        for task in [pool.submit(task) for task in tasks]:
            task.result()


def _measure(pair: dict[str, Worker], tokens: int, steps: int, rounds: int) -> dict[str, Any]:
    def seconds(worker: Worker) -> float:
        return float(worker.ask(do="time", steps=steps)["seconds"]) / steps

    taken = in_turn({side: partial(seconds, worker) for side, worker in pair.items()}, rounds=rounds)
    forms = {side: spread(s) | {"tokens_per_s": tokens / spread(s)["median_s"]} for side, s in taken.items()}
    return {"tokens": tokens, "steps": steps, "forms": forms, "ratio": ratio(taken["theirs"], taken["ours"])}


if __name__ == "__main__":
    main()
