"""Checkpoint folders: written whole or not at all, checked in full on loading, never unpickled."""

from positronic.checkpoint.adopt import adopt
from positronic.checkpoint.conversation_state import load_conversation, save_conversation
from positronic.checkpoint.convert import Converted, convert
from positronic.checkpoint.folder import (
    SHARD_BYTES,
    TrainingPart,
    load,
    load_model,
    load_training,
    read_config,
    save,
    vacant,
)
from positronic.checkpoint.lock import usable
from positronic.checkpoint.memories import load_memories, save_memories
from positronic.checkpoint.provenance import commit
from positronic.checkpoint.runs import RunFolder

__all__ = [
    "SHARD_BYTES",
    "Converted",
    "RunFolder",
    "TrainingPart",
    "adopt",
    "commit",
    "convert",
    "load",
    "load_conversation",
    "load_memories",
    "load_model",
    "load_training",
    "read_config",
    "save",
    "save_conversation",
    "save_memories",
    "usable",
    "vacant",
]
