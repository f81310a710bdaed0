"""The command line. A command is a file in `commands/` with a `Command` dataclass: its fields are flags, `run` works.

A file is imported when its command is typed, and torch only inside `run`, so that help is instant.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from positronic.cli.console import say
from positronic.cli.terminal import guarded, parsing
from positronic.config import did_you_mean
from positronic.errors import ConfigError, PositronicError

__all__ = ["main"]

COMMANDS = {
    "demo": "train a small model on this machine's own text, talk to it, write a report",
    "bootstrap": "make a small model ready for training: machine, text, vocabulary, first checkpoint",
    "describe": "count parameters, operations and memory of a model",
    "tokenizer train": "learn a vocabulary from text",
    "tokenizer compare": "measure vocabularies on the same text",
    "fractal": "build or verify a table of fractal phases",
    "train": "train a model from text, resume a run, or start from another's weights",
    "sft": "tune a model on conversations, the assistant's words alone",
    "lora": "tune thin matrices beside a model's own (PEFT), and merge them into it",
    "dpo": "teach a tuned model which of two answers is preferred",
    "generate": "continue a prompt, or answer it",
    "chat": "talk to a tuned model",
    "eval": "bits per byte on any text, and benchmarks",
    "convert": "make a checkpoint of a GPT-2 or Llama folder, to look inside a known model",
    "export": "write a checkpoint for other programs: with its own code for Transformers, or as bfloat16",
    "view": "replay a generation as one page, insides moving",
    "doctor": "is my loss normal? a run beside the reference curve of its recipe",
    "reference": "learn a recipe's curve and its band from runs of several seeds",
    "health": "look at every organ of a model: is it alive, and what to do if not",
    "ablate": "what each organ and layer is worth, in bits per byte, or to one prompt",
    "kernels": "which form of each kernel runs on this machine, and why the others do not",
    "verify": "try a checkpoint in all that its card says: loading, organs, cache, memories",
    "course": "build a language model by hand, in NumPy alone: scripts and chapters",
}
FORWARDING = {"course"}
"""Commands that give all words after the first to another program, flags too."""

USAGE = """usage: positronic COMMAND [...]

Small language models whose insides are not a plain transformer: train, measure and talk to them.

{commands}

Every command explains itself:   positronic COMMAND --help
A first run:                     positronic demo
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for what the user can mend, 130 interrupted, 141 when nobody reads on."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads on a busy machine cost more than they save
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next((n for n in (" ".join(words[:2]), " ".join(words[:1])) if n in COMMANDS), "")
    with guarded():
        try:
            code = _run(name, words[len(name.split()) :]) if name else _usage(words)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            return 141
        except KeyboardInterrupt:
            return _ended(130, "Interrupted.")
        except Exception as error:
            said = _sentence(error)
            if said is None:
                raise
            return _ended(2, f"{f'positronic {name}'.strip()}: {said}")


def _ended(code: int, said: str) -> int:
    """The code, once it was said why, if anybody can be told."""
    with suppress(OSError):
        say(said)
    return code


def _sentence(error: Exception) -> str | None:
    """What to say of an error that the user can mend; None: the error is ours."""
    if isinstance(error, PositronicError):
        return str(error)
    if isinstance(error, OSError) and error.strerror is not None:
        what = "A file" if error.filename is None else error.filename
        return f"{what} cannot be read or written ({error.strerror}). Give another path, or make it usable."
    if isinstance(error, ValueError) and "null" in str(error) and "embedded" in str(error):
        return "A path holds a NUL character, which no file's name can have. Give another path."
    if isinstance(error, NotImplementedError) and "MPS" in str(error):
        return _lacking_on_mps(error)
    return None


def _lacking_on_mps(error: NotImplementedError) -> str:
    """What torch says of an operation that Apple's GPU does not have, in one sentence."""
    found = re.search(r"'([^']+)'", str(error))
    return (
        f"Apple's GPU (MPS) does not have {found[1] if found else 'an operation of this model'}. Set "
        f"PYTORCH_ENABLE_MPS_FALLBACK=1 to run it on the CPU and the rest on the GPU, or use --device cpu."
    )


def _of_several(command: Any) -> Iterator[str]:
    """The flags of a command, or of one of several, that take any number of values; those of its parts too."""
    if not is_dataclass(command):
        for part in get_args(command):
            yield from _of_several(part)
        return
    for name, kind in get_type_hints(command).items():
        if get_origin(kind) is tuple:
            yield f"--{name.replace('_', '-')}"
        else:
            yield from _of_several(kind)


def _run(name: str, words: list[str]) -> int:
    """Run a command; its help, too, is delivered or said not to be."""
    try:
        return _parse(name, words).run() or 0
    except SystemExit:
        sys.stdout.flush()
        raise


def _parse(name: str, words: list[str]) -> Any:
    """The command's dataclass, filled from the flags; wrong flags end the program with 2."""
    import tyro

    module = importlib.import_module("positronic.cli.commands." + name.replace(" ", "_"))
    if name in FORWARDING and words and not words[0].startswith("-"):
        words = ["--", *words]
    for flag in _of_several(module.Command):
        if words.count(flag) > 1:
            raise ConfigError(f"{flag} is given twice, and the first would be lost. Put all its values behind one.")
    with parsing():
        return tyro.cli(
            module.Command,
            args=words,
            prog=f"positronic {name}",
            description=module.__doc__,
            config=(tyro.conf.FlagCreatePairsOff,),
        )


def _usage(words: list[str]) -> int:
    group = [n for n in COMMANDS if words and n.split()[0] == words[0]]
    width = max(map(len, COMMANDS))
    shown = {n: COMMANDS[n] for n in group} if group else COMMANDS
    text = USAGE.format(commands="\n".join(f"  {n:{width}}  {about}" for n, about in shown.items()))
    if not words or words[0] in ("-h", "--help", "help") or (group and words[1:] in ([], ["-h"], ["--help"])):
        print(text)
        return 0
    if words == ["--version"]:
        from positronic import __version__

        print(__version__)
        return 0
    wanted = " ".join(words[:2]) if group else words[0]
    return _ended(2, f"positronic: there is no command {wanted!r}. {did_you_mean(wanted, COMMANDS)}")
