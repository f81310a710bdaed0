"""How fast the course's engine trains and writes on this machine, and how much memory it takes.

Tokens are counted by the second of the processor, all its threads together; there is one, unless OPENBLAS_NUM_THREADS
says otherwise. Memory is what arrays take: parameters with the optimiser, and the most that one step of training adds.

Examples:
  python -m positronic_course.scripts.benchmark
  OPENBLAS_NUM_THREADS=2 python -m positronic_course.scripts.benchmark --config small --json
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from positronic_course import CourseError
from positronic_course.ch07_loss import ModelConfig
from positronic_course.ch08_initialisation import n_parameters
from positronic_course.ch10_training import Corpus, Trainer, TrainingConfig
from positronic_course.ch11_generation import generate
from positronic_course.scripts.console import read_text, run
from positronic_course.scripts.train_simple import CONFIGS


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmark", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="improved", help="size of the model (improved)")
    parser.add_argument("--steps", type=int, default=100, help="of training, and tokens written (100)")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    a = parser.parse_args(arguments)
    if a.steps < 1:
        raise CourseError(f"--steps is {a.steps}; use 1 or more.")

    trainer = new_trainer(a.config, a.steps)
    steps = trainer.run()
    added = most_added(lambda: next(steps))
    tokens = a.steps * trainer.training.rows * trainer.config.context
    training = tokens / cpu_seconds(lambda: exhaust(islice(steps, a.steps)))
    new = generate(trainer.parameters, trainer.config, [65], a.steps, rng=np.random.default_rng(0))
    result = {
        "config": a.config,
        "parameters": n_parameters(trainer.parameters),
        "training_tokens_per_cpu_s": training,
        "generated_tokens_per_cpu_s": a.steps / cpu_seconds(lambda: exhaust(new)),
        "kept_bytes": sum(x.nbytes for x in (*trainer.parameters.values(), *trainer.optimiser.to_arrays().values())),
        "added_by_a_step_bytes": added,
    }
    if a.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{a.config}: {result['parameters']:,} parameters")
    print(f"training     {training:10,.0f} tokens a CPU-second")
    print(f"generation   {result['generated_tokens_per_cpu_s']:10,.0f} tokens a CPU-second")
    print(f"memory       {result['kept_bytes'] / 1e6:10.1f} MB kept, {added / 1e6:.1f} MB more in a step")


def new_trainer(config: str, steps: int) -> Trainer:
    """A run on the stories that is longer than these steps."""
    corpus = Corpus.of(read_text(None))
    sizes = ModelConfig(vocab_size=len(corpus.tokenizer), **CONFIGS[config])
    epoch = Trainer(sizes, TrainingConfig(), corpus).steps_an_epoch
    return Trainer(sizes, TrainingConfig(epochs=2 + steps // epoch), corpus)


def exhaust(items: Iterator) -> None:
    for _ in items:
        pass


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


def most_added(work: Callable[[], object]) -> int:
    """Bytes of arrays at the worst moment of the work, above what was there before; NumPy reports its arrays."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    run(main)
