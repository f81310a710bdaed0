"""A run in chunks: where the next one ends, and what is asked between two of them."""

from pathlib import Path

from positronic.cli.console import ask, say
from positronic.cli.parts.named_models import newest_of, open_model
from positronic.errors import ConfigError

__all__ = ["goes_on", "next_stop", "sample"]

SAMPLE_TOKENS = 80


def next_stop(out: Path, chunk: int) -> int:
    """The next multiple of `chunk` behind the newest checkpoint, by its number; a chunk cut short is finished first."""
    from positronic.checkpoint import RunFolder

    if chunk < 1:
        raise ConfigError(f"--chunk is {chunk}; use 1 or more steps (1000 is usual).")
    steps = RunFolder(out).steps()
    return ((steps[-1] if steps else 0) // chunk + 1) * chunk


def sample(out: Path, prompt: str, device: str) -> None:
    """Let the newest model continue `prompt`, as it comes."""
    from positronic.generation import generate

    folder = newest_of(out)
    model, tokenizer = open_model(folder, device)
    print(f"\n{folder.name}: {prompt}|", end="", flush=True)
    for piece in generate(model, tokenizer, prompt, max_new_tokens=SAMPLE_TOKENS, seed=1):
        print(piece.text, end="", flush=True)
    print()


def goes_on() -> bool:
    """Whether the user wants the next chunk. At the end of input he does not."""
    answer = ask("\nContinue? [Y/n] ")
    if answer is None:
        say("(no answer: stopped here)")
    return answer is not None and answer.strip().lower() not in ("n", "no")
