"""Train a small language model, in NumPy, on the course's stories or on your text.

Interrupted, by Ctrl-C or by anything worse, and typed again it goes on where it was, to the same bits as without the
interruption. Finished, it writes a little text, and loss.png where matplotlib is installed.

Examples:
  python -m positronic_course.scripts.train_simple
  python -m positronic_course.scripts.train_simple --clean --config small
  python -m positronic_course.scripts.train_simple --clean --long-training
  python -m positronic_course.scripts.train_simple --data-file my.txt --out my-model
"""

import argparse
import json
import platform
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from positronic_course import CourseError
from positronic_course.ch01_tokenizers import Tokenizer, from_json
from positronic_course.ch07_loss import ModelConfig
from positronic_course.ch08_initialisation import n_parameters
from positronic_course.ch10_training import Corpus, Trainer, TrainingConfig, checkpoints, evaluate
from positronic_course.ch11_generation import generate
from positronic_course.scripts.console import MODEL, asked_to_stop, progress, read_text, run

STORIES_SHA256 = "10f17f4f33a87da7375a4221fee840d5282c59ca23267f93de0335ee7df212c4"
"""The text that the numbers in the documents were measured on."""
CONFIGS = {
    "small": {"d_model": 48, "n_heads": 4, "n_layers": 1, "d_hidden": 128, "context": 64},
    "improved": {"d_model": 96, "n_heads": 4, "n_layers": 2, "d_hidden": 256, "context": 64},
}
"""Sizes; both take seconds on the stories."""
LONG = 200
"""Epochs of --long-training."""
SAVE_EVERY, SHOW_EVERY = 500, 20
"""Steps, where an epoch is longer."""


def main(arguments: Sequence[str] | None = None) -> int:
    a = flags(arguments)
    if a.clean:
        clean(a.out)
    trainer = Trainer(*settings(a))
    if checkpoints(a.out):
        trainer.go_on(a.out)
        print(f"{a.out} has {len(trainer.losses)} of {trainer.steps} steps; --clean begins again.", file=sys.stderr)
    begun, cpu_s = len(trainer.losses), time.process_time()
    finished = train(trainer, a.out)
    cpu_s = time.process_time() - cpu_s
    plot(trainer, a.out / "loss.png")
    if not finished:
        print(f"Stopped after {len(trainer.losses)} steps; without --clean it goes on from here.", file=sys.stderr)
        return 130
    tokens = (trainer.steps - begun) * trainer.tokens_an_epoch // trainer.steps_an_epoch
    report(trainer, a, {"tokens": tokens, "cpu_s": cpu_s})
    return 0


def flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("train_simple", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="improved", help="size of the model (improved)")
    parser.add_argument("--clean", action="store_true", help="forget the model in --out and begin again")
    parser.add_argument("--long-training", action="store_true", help=f"{LONG} epochs")
    parser.add_argument("--epochs", type=int, help=f"how often the text is read ({TrainingConfig.epochs})")
    parser.add_argument("--rate", type=float, default=TrainingConfig.peak, help=f"at its peak ({TrainingConfig.peak})")
    parser.add_argument("--data-file", type=Path, help="a UTF-8 text; without it, the course's stories")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of train_bpe; without it, characters")
    parser.add_argument("--out", type=Path, default=MODEL, help=f"where the model is kept ({MODEL})")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (0)")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    a = parser.parse_args(arguments)
    if a.long_training and a.epochs is not None:
        raise CourseError(f"--long-training is {LONG} epochs, and --epochs says {a.epochs}. Leave one of them out.")
    return a


def settings(a: argparse.Namespace) -> tuple[ModelConfig, TrainingConfig, Corpus]:
    """What the flags ask for."""
    corpus = Corpus.of(read_text(a.data_file), read_tokenizer(a.tokenizer) if a.tokenizer else None)
    if a.data_file is None and corpus.sha256 != STORIES_SHA256:
        raise CourseError(
            f"The stories of the course have been changed (sha256 {corpus.sha256[:12]}, not {STORIES_SHA256[:12]}). "
            f"Restore corpus.txt, or give your text with --data-file."
        )
    epochs = LONG if a.long_training else TrainingConfig.epochs if a.epochs is None else a.epochs
    config = ModelConfig(vocab_size=len(corpus.tokenizer), **CONFIGS[a.config])
    return config, TrainingConfig(epochs=epochs, peak=a.rate, seed=a.seed), corpus


def read_tokenizer(path: Path) -> Tokenizer:
    """What train_bpe wrote."""
    try:
        return from_json(read_text(path))
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is not a tokenizer ({error!r}). Give a file that train_bpe wrote.") from error


def clean(folder: Path) -> None:
    """Remove what this script writes, and nothing else."""
    for checkpoint in (*checkpoints(folder), folder / "unfinished"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    (folder / "loss.png").unlink(missing_ok=True)


def train(trainer: Trainer, out: Path) -> bool:
    """To the end, or until asked to stop; saves after each epoch, and when it stops. True if this is the end."""
    begun, start = len(trainer.losses), time.perf_counter()
    tokens_a_step = trainer.tokens_an_epoch / trainer.steps_an_epoch
    with asked_to_stop() as asked:
        for step in trainer.run():
            epoch_ended = step % trainer.steps_an_epoch == 0
            if epoch_ended or asked() or step % SAVE_EVERY == 0:
                trainer.save(out)
            if epoch_ended or step % SHOW_EVERY == 0:
                rate = (step - begun) * tokens_a_step / (time.perf_counter() - start)
                progress(step, trainer.steps, f"{standing(trainer)}  {rate:,.0f} tokens/s", lasting=epoch_ended)
            if asked():
                break
    return len(trainer.losses) == trainer.steps


def standing(trainer: Trainer) -> str:
    """Epoch and losses, for the progress bar."""
    epoch = f"epoch {-(-len(trainer.losses) // trainer.steps_an_epoch):3}/{trainer.training.epochs}"
    if not trainer.history:
        return f"{epoch}  loss {trainer.losses[-1]:.3f}"
    last = trainer.history[-1]
    return f"{epoch}  loss {last['training']:.3f}, held out {last['held_out']:.3f}"


def plot(trainer: Trainer, path: Path) -> None:
    """Loss of every step and every epoch, and of the held-out text."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No loss.png: matplotlib is not installed (pip install matplotlib).", file=sys.stderr)
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="nats a token", title="Loss")
    ends = np.arange(1, len(trainer.history) + 1)
    steps = [(step + 1) / trainer.steps_an_epoch for step in range(len(trainer.losses))]
    axes.plot(steps, trainer.losses, color="0.8", label="a step")
    axes.plot(ends - 0.5, [h["training"] for h in trainer.history], ".-", label="training, mean of an epoch")
    axes.plot(ends, [h["held_out"] for h in trainer.history], ".-", label="held out")
    axes.legend()
    figure.savefig(path, dpi=120)


def report(trainer: Trainer, a: argparse.Namespace, timing: dict[str, float]) -> None:
    """Losses of the finished model on both parts of the text, and a sample."""
    tokenizer, held_out = trainer.corpus.tokenizer, trainer.corpus.held_out
    losses = {
        part: evaluate(trainer.parameters, trainer.config, ids, tokenizer)
        for part, ids in (("training", trainer.corpus.training), ("held_out", held_out))
    }
    prompt, rng = held_out[1:17].tolist(), np.random.default_rng(a.seed)
    ids = generate(trainer.parameters, trainer.config, prompt, 300, temperature=0.7, rng=rng)
    sample = tokenizer.decode([*prompt, *ids])
    if a.json:
        result = {
            "config": a.config,
            **trainer.settings(),
            "parameters": n_parameters(trainer.parameters),
            "steps": trainer.steps,
            "losses": losses,
            "history": trainer.history,
            "timing": timing,
            "machine": {"system": platform.system(), "processor": platform.processor() or platform.machine()},
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
            "sample": sample,
            "sample_words": known_words(sample, read_text(a.data_file)),
        }
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for part, loss in losses.items():
        print(f"{part:8}  {loss['nats_per_token']:.3f} nats a token  {loss['bits_per_byte']:.3f} bits per byte")
    if timing["tokens"]:
        print(f"{timing['tokens'] / timing['cpu_s']:,.0f} tokens a CPU-second")
    print(f"\n{sample}\n\nLet it write more:")
    print(f"  python -m positronic_course.scripts.generate_text PROMPT --model-path {a.out}")


def known_words(sample: str, text: str) -> dict[str, int]:
    """How many words a sample has, the first and the last left out, which may be cut; and how many the text has too."""
    words, known = re.findall(r"\w+", sample)[1:-1], set(re.findall(r"\w+", text))
    return {"all": len(words), "known": sum(word in known for word in words)}


if __name__ == "__main__":
    run(main)
