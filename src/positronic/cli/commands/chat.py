"""Talk to a tuned model, or ask it one thing; it remembers what was said until you leave, or longer with --keep-memory.

Examples:
  positronic chat tuned/last
  positronic chat tuned/last "What is the sea?"
  positronic chat tuned/last --system "You are a pirate." --temperature 0.9
  positronic chat tuned/last --think --speculative --stats
  positronic chat tuned/last --keep-memory talk.safetensors

FOLDER may be a run's: then its tuned model speaks, the best in FOLDER/tuned, or where there is none the newest of the
run. While talking: `settings` shows how answers are drawn, `settings temperature=0.9 top_p=0.8 max_tokens=100` changes
it from then on, /reset forgets the conversation, /system TEXT starts anew with a system message, `quit` leaves. A kept
conversation is replaced by the first answer after /reset; with --keep ring-memory what was kept goes on behind it.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from positronic.cli.console import ask, say
from positronic.cli.flags.memory import Memory, MemoryFlags
from positronic.cli.flags.sampling import Drawing, DrawingFlags
from positronic.cli.parts.named_models import open_model
from positronic.cli.parts.results import describe_result
from positronic.errors import GenerationError, PositronicError

if TYPE_CHECKING:
    from positronic.generation import Conversation
    from positronic.lm import LM
    from positronic.text import Tokenizer

LIVE = ("temperature", "top_p", "max_new_tokens", "top_k", "min_p", "repetition_penalty", "seed")
"""What `settings` shows and changes."""
ALSO = {"max_tokens": "max_new_tokens"}
LEAVE = ("quit", "exit", "/quit", "/exit")


@dataclass(frozen=True)
class Command:
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder of a tuned model, or a run's folder."""
    question: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="QUESTION")] = None
    """Answer this and leave."""
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
        model, tokenizer = open_model(_speaker(self.folder), self.device)
        state = self.memory.kept(model, tokenizer)
        if self.system is not None and state is not None and state.tokens:
            raise GenerationError(
                f"--system comes too late: {self.memory.keep_memory} holds a conversation that has begun. Drop it, or "
                f"name another file."
            )
        talk = _Talk(self, model, tokenizer, self.drawing, self.system, state)
        if self.question is not None:
            talk.answer(self.question)
            print()
            return
        say(
            "Type a message. settings shows how answers are drawn, /reset forgets, /system TEXT starts anew, quit ends."
        )
        while (line := _read("\nyou > ")) is not None and line.strip() not in LEAVE:
            if line.strip() and not talk.commanded(line.strip()):
                talk.reply(line)


def _speaker(folder: Path) -> Path:
    """The best of what was tuned on top of a run; else the folder itself."""
    from positronic.checkpoint import RunFolder

    tuned = RunFolder(folder / "tuned")
    found = tuned.best() or tuned.newest()
    if found is None and RunFolder(folder).newest() is not None:
        say("(no tuned model here: this one only learned to continue text, `positronic sft` teaches it to answer)")
    return found or folder


@dataclass
class _Talk:
    """A model, how it draws, and what was said."""

    wanted: Command
    model: "LM"
    tokenizer: "Tokenizer"
    drawing: Drawing
    system: str | None
    state: "Conversation | None"

    def __post_init__(self) -> None:
        self._drawn = self.drawing.settings(self.model)

    def commanded(self, line: str) -> bool:
        """Whether the line was meant for us, and is done."""
        command, _, rest = line.partition(" ")
        if command in ("/reset", "/system"):
            self.system = (rest or None) if command == "/system" else self.system
            alone = self.wanted.memory.keep == "ring-memory"
            self.state = self.wanted.memory.going_on(self.state, self.model) if alone and self.state else None
            say("(a new conversation)")
            return True
        words = rest.split()
        if command == "/settings" or (command == "settings" and all("=" in word for word in words)):
            self._set(words)
            return True
        return False

    def _set(self, words: list[str]) -> None:
        """Change what is given, if it can be, and show how things stand."""
        try:
            self.drawing = changed(self.drawing, words)
            self._drawn = self.drawing.settings(self.model)
        except GenerationError as error:
            say(str(error))
        say("(" + "  ".join(f"{name}={getattr(self.drawing, name)}" for name in LIVE) + ")")

    def reply(self, line: str) -> None:
        """Answer, and live with what goes wrong."""
        print("bot > ", end="", flush=True)
        try:
            self.answer(line)
        except PositronicError as error:
            say(f"\n{error}")
        except KeyboardInterrupt:
            say("\n(stopped; the conversation stands as it was before this message)")
        print()

    def answer(self, line: str) -> None:
        """Print the answer as it comes, and remember it."""
        from positronic.generation import generate
        from positronic.text import Message

        pieces = generate(
            self.model,
            self.tokenizer,
            [Message("user", line)],
            system=None if self.state is not None and self.state.tokens else self.system,
            think=self.wanted.think,
            freeze_memory=self.wanted.memory.freeze_memory,
            state=self.state,
            **self._drawn,
        )
        for piece in pieces:
            print(piece.text, end="", flush=True)
            if piece.result is not None:
                self.state = piece.result.state
                self.wanted.memory.save(self.state, self.model, self.tokenizer)
                if self.wanted.stats:
                    say("\n" + describe_result(piece.result))
                if piece.result.stop_reason == "context":
                    say("\n(the model's context is full: /reset begins anew)")


def changed(drawing: Drawing, words: list[str]) -> Drawing:
    """The settings with `name=value` for each word; what cannot be raises `GenerationError`."""
    kinds = {f.name: int if f.type in (int, "int") else float for f in fields(drawing) if f.name in LIVE}
    values: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        name = name.replace("-", "_")
        name = ALSO.get(name, name)
        if name not in kinds:
            raise GenerationError(f"There is no setting {name!r}; write NAME=VALUE, with one of {', '.join(LIVE)}.")
        try:
            values[name] = kinds[name](text)
        except ValueError:
            raise GenerationError(f"{name} is {text!r}; give a {'whole ' * (kinds[name] is int)}number.") from None
    made = replace(drawing, **values)
    made.check()
    return made


def _read(prompt: str) -> str | None:
    """A line from the user; None at the end of input, or when he leaves by Ctrl-C."""
    try:
        return ask(prompt)
    except KeyboardInterrupt:
        print()
        return None
