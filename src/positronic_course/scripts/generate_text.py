"""Let a trained model continue a text.

Examples:
  python -m positronic_course.scripts.generate_text "Once upon a time"
  python -m positronic_course.scripts.generate_text "The cat" --temperature 0.5 --top-k 20 --num-samples 3
  python -m positronic_course.scripts.generate_text --interactive
"""

import argparse
import codecs
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from positronic_course import CourseError
from positronic_course.ch01_tokenizers import Tokenizer
from positronic_course.ch03_linear_and_norms import Parameters
from positronic_course.ch07_loss import ModelConfig
from positronic_course.ch10_training import read
from positronic_course.ch11_generation import generate
from positronic_course.scripts.console import MODEL, run
from positronic_course.scripts.train_simple import CONFIGS


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "generate_text", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="how the text begins")
    parser.add_argument("--model-path", type=Path, default=MODEL, help=f"folder of train_simple ({MODEL})")
    parser.add_argument("--config", choices=CONFIGS, help="the size that the model must have been trained in")
    parser.add_argument("--max-length", type=int, default=200, help="tokens to write (200)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the most probable token (0.7)")
    parser.add_argument("--top-k", type=int, default=0, help="keep the K most probable tokens; 0 keeps all (0)")
    parser.add_argument("--top-p", type=float, default=0.95, help="keep the most probable of this mass (0.95)")
    parser.add_argument("--num-samples", type=int, default=1, help="texts for each prompt (1)")
    parser.add_argument("--interactive", action="store_true", help="ask for prompts, until an empty line")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text (0)")
    a = parser.parse_args(arguments)
    if a.seed < 0 or a.num_samples < 1:
        raise CourseError(f"--seed {a.seed} and --num-samples {a.num_samples}: use 0 or more, and 1 or more.")
    if a.prompt is None and not a.interactive:
        raise CourseError('There is no prompt. Give one, as "Once upon a time", or --interactive to be asked.')

    saved, tokenizer, parameters = read(a.model_path)
    config = ModelConfig(**saved["model"])
    if a.config and any(saved["model"][name] != value for name, value in CONFIGS[a.config].items()):
        raise CourseError(
            f"The model in {a.model_path} is not of the size {a.config}. Leave --config out, or train one: "
            f"train_simple --config {a.config} --out NEW, then --model-path NEW."
        )
    rng = np.random.default_rng(a.seed)
    for prompt in prompts(a):
        for number in range(a.num_samples):
            if a.num_samples > 1:
                print(f"--- {number + 1} of {a.num_samples}")
            for text in written(parameters, config, tokenizer, prompt, a, rng):
                print(text, end="", flush=True)
            print()


def prompts(a: argparse.Namespace) -> Iterator[str]:
    """The one that was given, then those that are typed."""
    if a.prompt is not None:
        yield a.prompt
    while a.interactive:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().rstrip("\n")
        if not line:
            return
        yield line


def written(
    parameters: Parameters,
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompt: str,
    a: argparse.Namespace,
    rng: np.random.Generator,
) -> Iterator[str]:
    """The prompt and what the model adds, as it comes; a character of several bytes comes when it is complete."""
    ids = tokenizer.encode(prompt)
    new = generate(
        parameters, config, ids, a.max_length, temperature=a.temperature, top_k=a.top_k, top_p=a.top_p, rng=rng
    )
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    first = next(new, None)  # a mistake is found before anything is printed
    yield prompt
    if first is not None:
        yield decoder.decode(tokenizer.pieces[first])
    for number in new:
        yield decoder.decode(tokenizer.pieces[number])
    yield decoder.decode(b"", final=True)


if __name__ == "__main__":
    run(main)
