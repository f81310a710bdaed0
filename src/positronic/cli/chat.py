"""Talk to a tuned model; it remembers the conversation until you leave, or beyond with --keep-memory.

Examples:
  positronic chat tuned/last
  positronic chat tuned/last --system "You are a pirate." --temperature 0.9
  positronic chat tuned/last --think --speculative --stats
  positronic chat tuned/last --keep-memory talk.safetensors

While talking: /reset forgets the conversation, /system TEXT starts anew with a system message, /quit leaves. A kept
conversation is replaced by the first answer after /reset.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from positronic.cli.console import say
from positronic.cli.generate import describe_result
from positronic.cli.sampling import Drawing, DrawingFlags, Memory, MemoryFlags, open_model
from positronic.errors import GenerationError


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder of a tuned model."""
    system: str | None = None
    """System message."""
    think: bool = False
    """Begin every answer with thinking."""
    drawing: DrawingFlags = field(default_factory=Drawing)
    memory: MemoryFlags = field(default_factory=Memory)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    stats: bool = False
    """After each answer, say what it took."""

    def run(self) -> None:
        from positronic.generation import generate
        from positronic.text import Message

        model, tokenizer = open_model(self.folder, self.device)
        drawn = self.drawing.settings(model)
        say("Type a message. /reset forgets, /system TEXT starts anew, /quit leaves.")
        system, state = self.system, self.memory.kept(model, tokenizer)
        if system is not None and state is not None:
            raise GenerationError(
                f"--system comes too late: {self.memory.keep_memory} holds a conversation that has begun. Drop it, or "
                f"name another file."
            )
        while (line := _read("\nyou > ")) is not None:
            command, _, rest = line.strip().partition(" ")
            if not line.strip():
                continue
            if command in ("/quit", "/exit"):
                return
            if command in ("/reset", "/system"):
                system, state = (rest or None) if command == "/system" else system, None
                say("(a new conversation)")
                continue
            print("bot > ", end="", flush=True)
            try:
                pieces = generate(
                    model,
                    tokenizer,
                    [Message("user", line)],
                    system=system if state is None else None,
                    think=self.think,
                    freeze_memory=self.memory.freeze_memory,
                    state=state,
                    **drawn,
                )
                for piece in pieces:
                    print(piece.text, end="", flush=True)
                    if piece.result is not None:
                        state = piece.result.state
                        self.memory.keep(state, model, tokenizer)
                        if self.stats:
                            say("\n" + describe_result(piece.result))
                        if piece.result.stop_reason == "context":
                            say("\n(the model's context is full: /reset begins anew)")
            except GenerationError as error:
                say(f"\n{error}")
            except KeyboardInterrupt:
                say("\n(stopped; the conversation stands as it was before this message)")
            print()


def _read(prompt: str) -> str | None:
    """A line from the user; None at the end of input."""
    try:
        return input(prompt)
    except (EOFError, KeyboardInterrupt):
        print()
        return None
