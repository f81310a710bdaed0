"""Flags that `generate` and `chat` share: how tokens are drawn, what is remembered, and where the model lives."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from positronic.generation import Conversation
    from positronic.lm import LM
    from positronic.text import Tokenizer

__all__ = ["Drawing", "Memory", "open_model"]


@dataclass(frozen=True)
class Drawing:
    """How the next token is drawn."""

    max_new_tokens: int = 256
    """Stop after this many tokens."""
    temperature: float = 0.7
    """0 takes the most likely token; higher is freer."""
    top_k: int = 0
    """Keep the K most likely tokens; 0 keeps all."""
    top_p: float = 0.92
    """Keep the most likely tokens of this mass; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the best; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that occurred less likely."""
    seed: int = 0
    """The same seed gives the same text."""
    stop: tuple[str, ...] = ()
    """Strings that end the text."""
    speculative: bool = False
    """Draft tokens ahead and check several in one forward: the same text, fewer forwards."""
    exact: bool = False
    """Fix the width of every forward, so that text with drafts equals text without to the bit."""

    def settings(self) -> dict[str, Any]:
        """As keyword arguments of `positronic.generate`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Memory:
    """What a conversation leaves behind. Without these flags nothing: every one starts from an empty memory."""

    keep_memory: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Go on from the conversation in FILE, if it exists, and write the new one back after every answer."""
    freeze_memory: bool = False
    """Read test-time memories as they are and write none."""

    def kept(self, model: "LM", tokenizer: "Tokenizer") -> "Conversation | None":
        """The conversation to go on from."""
        from positronic.checkpoint import load_conversation
        from positronic.errors import CheckpointError

        if self.keep_memory is None:
            return None
        if not self.keep_memory.absolute().parent.is_dir():
            raise CheckpointError(f"--keep-memory {self.keep_memory}: there is no such folder. Make it first.")
        return load_conversation(self.keep_memory, model, tokenizer) if self.keep_memory.exists() else None

    def keep(self, conversation: "Conversation", model: "LM", tokenizer: "Tokenizer") -> None:
        """Write it back where that was asked for."""
        from positronic.checkpoint import save_conversation

        if self.keep_memory is not None:
            save_conversation(self.keep_memory, conversation, model, tokenizer)


DrawingFlags = tyro.conf.OmitArgPrefixes[Drawing]
MemoryFlags = tyro.conf.OmitArgPrefixes[Memory]


def open_model(folder: Path, device: str) -> "tuple[LM, Tokenizer]":
    """A checkpoint's model on a device asked for by name, and its tokenizer."""
    from positronic.checkpoint import load
    from positronic.train.device import pick_device

    return load(folder, device=pick_device(device, "float32").torch_device)
