"""Flags of commands that talk: what a conversation leaves behind in a file, and what goes on from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from positronic.errors import GenerationError

if TYPE_CHECKING:
    from positronic.generation import Conversation
    from positronic.lm import LM
    from positronic.text import Tokenizer

__all__ = ["Memory", "MemoryFlags"]


@dataclass(frozen=True)
class Memory:
    """What a conversation leaves behind. Without these flags nothing: every one starts from an empty memory."""

    keep_memory: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Go on from the conversation in FILE, if it exists, and write the new one back after every answer."""
    keep: Literal["conversation", "ring-memory"] = "conversation"
    """What goes on: all of it, or in a new conversation the memories of specialists, stations and controllers alone."""
    freeze_memory: bool = False
    """Read test-time memories as they are and write none."""

    def kept(self, model: "LM", tokenizer: "Tokenizer") -> "Conversation | None":
        """The conversation to go on from."""
        from positronic.checkpoint import load_conversation, load_memories
        from positronic.errors import CheckpointError
        from positronic.generation import Conversation

        if self.keep_memory is None:
            if self.keep != "conversation":
                raise GenerationError(f"--keep {self.keep} says what goes on in a file; name it: --keep-memory FILE.")
            return None
        if not self.keep_memory.absolute().parent.is_dir():
            raise CheckpointError(f"--keep-memory {self.keep_memory}: there is no such folder. Make it first.")
        if self.keep_memory.is_dir():
            raise CheckpointError(f"--keep-memory {self.keep_memory} is a folder; name a file.")
        if not self.keep_memory.exists():
            return self.going_on(Conversation(), model)
        if self.keep == "ring-memory":
            return load_memories(self.keep_memory, model)
        return load_conversation(self.keep_memory, model, tokenizer)

    def going_on(self, conversation: "Conversation", model: "LM") -> "Conversation | None":
        """What of a conversation the next one begins with."""
        from positronic.generation import memories_alone

        if self.keep_memory is None:
            return None
        return conversation if self.keep == "conversation" else memories_alone(model, conversation)

    def save(self, conversation: "Conversation", model: "LM", tokenizer: "Tokenizer") -> None:
        """Write back what goes on, where that was asked for."""
        from positronic.checkpoint import save_conversation, save_memories

        kept = self.going_on(conversation, model)
        if self.keep_memory is None or kept is None:
            return
        if self.keep == "ring-memory":
            save_memories(self.keep_memory, kept, model)
        else:
            save_conversation(self.keep_memory, kept, model, tokenizer)


MemoryFlags = tyro.conf.OmitArgPrefixes[Memory]
