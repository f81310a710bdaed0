"""Continue a prompt, or answer it.

Examples:
  positronic generate my-run/last --prompt "The function returns"
  positronic generate my-run/last --prompt "def main" --temperature 0 --speculative --stats
  positronic generate my-run/last --prompt "def main" --speculative --drafts lookup --exact --stats
  positronic generate tuned/last --chat --prompt "What is a transformer?" --system "Be brief."
  positronic generate my-run/last --prompt "Once" --seed 7 --json
  positronic generate my-run/last --prompt "Once" --n 4
  positronic generate my-run/last --interactive
  positronic generate my-run/last --prompt "And then" --keep-memory story.safetensors
  positronic generate my-run/last --interactive --keep-memory rings.safetensors --keep ring-memory
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from positronic.cli.console import ask, print_json, say
from positronic.cli.flags.memory import Memory, MemoryFlags
from positronic.cli.flags.sampling import Drawing, DrawingFlags
from positronic.cli.parts.named_models import open_model
from positronic.cli.parts.results import describe_result
from positronic.errors import GenerationError, PositronicError

if TYPE_CHECKING:
    from positronic.generation import Conversation

MOST_CHOICES = 1024
"""Answers to one prompt, at most."""


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder."""
    prompt: str | None = None
    """Text to continue, or with --chat to answer; - reads it from standard input."""
    chat: bool = False
    """The prompt is a user's message."""
    system: str | None = None
    """With --chat: the system message."""
    think: bool = False
    """With --chat: begin the answer with thinking."""
    n: int = 1
    """So many continuations or answers to a prompt that is read once; they differ where text is drawn."""
    interactive: bool = False
    """Read prompts line by line and continue each; with --keep-memory what was kept of one goes on in the next."""
    drawing: DrawingFlags = field(default_factory=Drawing)
    memory: MemoryFlags = field(default_factory=Memory)
    no_cache: bool = False
    """Read everything anew for every token: slow, for comparison."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    stats: bool = False
    """Say how many forwards, drafts and seconds it took."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        if self.interactive == (self.prompt is not None):
            raise GenerationError("Give either --prompt TEXT (or --prompt - for standard input) or --interactive.")
        if (self.system is not None or self.think) and not self.chat:
            raise GenerationError("--system and --think belong to a conversation; add --chat.")
        if self.interactive and self.json:
            raise GenerationError("--json prints one object, and --interactive has no end; drop one of them.")
        self._check_n()
        model, tokenizer = open_model(self.folder, self.device)
        drawn = self.drawing.settings(model)
        before = self.memory.kept(model, tokenizer)
        if not self.interactive:
            prompt = sys.stdin.read() if self.prompt == "-" else self.prompt or ""
            if self.n > 1:
                self._choices(model, tokenizer, prompt, drawn)
                return
            self._answer(model, tokenizer, prompt, drawn, before)
            return
        say("A line, then Enter: the model continues it. An empty line or Ctrl-D ends.")
        while line := ask("> "):
            try:
                after = self._answer(model, tokenizer, line, drawn, before)
            except PositronicError as error:
                say(str(error))
            else:
                before = self.memory.going_on(after, model)

    def _check_n(self) -> None:
        """Raise where several answers cannot be had."""
        if not 1 <= self.n <= MOST_CHOICES:
            raise GenerationError(f"--n is {self.n}; use a number from 1 to {MOST_CHOICES}.")
        alone = {
            "--interactive": self.interactive,
            "--keep-memory": self.memory.keep_memory is not None,
            "--speculative": self.drawing.speculative,
            "--exact": self.drawing.exact,
            "--no-cache": self.no_cache,
        }
        if self.n > 1 and any(alone.values()):
            named = next(name for name, given in alone.items() if given)
            raise GenerationError(f"{named} is for one text at a time, and --n asks for {self.n}; drop one of them.")

    def _choices(self, model: Any, tokenizer: Any, text: str, drawn: dict[str, Any]) -> None:
        """Several answers to one prompt, one after another."""
        from positronic.generation import generate_choices
        from positronic.text import Message

        results = generate_choices(
            model,
            tokenizer,
            [Message("user", text)] if self.chat else text,
            self.n,
            system=self.system,
            think=self.think,
            freeze_memory=self.memory.freeze_memory,
            **{name: value for name, value in drawn.items() if name not in ("speculative", "exact")},
        )
        if self.json:
            print_json({"choices": [result.to_json() for result in results]})
            return
        for number, result in enumerate(results, 1):
            print(f"--- {number} of {self.n}\n{result.text}")
            if self.stats:
                say(describe_result(result))

    def _answer(
        self, model: Any, tokenizer: Any, text: str, drawn: dict[str, Any], before: "Conversation | None"
    ) -> "Conversation":
        from positronic.generation import generate
        from positronic.text import Message

        pieces = generate(
            model,
            tokenizer,
            [Message("user", text)] if self.chat else text,
            system=self.system,
            think=self.think,
            cache=not self.no_cache,
            freeze_memory=self.memory.freeze_memory,
            state=before,
            **drawn,
        )
        result = None
        for piece in pieces:
            result = piece.result
            if not self.json:
                print(piece.text, end="", flush=True)
        assert result is not None, "generation ends with a result"
        if self.json:
            print_json(result.to_json())
        else:
            print()
        if self.stats and not self.json:
            say(describe_result(result))
        self.memory.save(result.state, model, tokenizer)
        return result.state
