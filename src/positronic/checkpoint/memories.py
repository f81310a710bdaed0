"""Memories alone in one file: what specialists, stations and controllers hold, without what was said.

    tensors    each field of each memory of the state, by its number in the order of the model: 3.stores
    metadata   one JSON value, "memories": the format, the model's fingerprint, a digest of each tensor

They are read into the memories of the model's own `init_state`, whose types and extents they must have.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from positronic import tree
from positronic.checkpoint.atomic import replace
from positronic.checkpoint.conversation_state import fingerprint
from positronic.checkpoint.reading import parse_json, reason
from positronic.checkpoint.tensors import check_types, digest
from positronic.config import canonical_json
from positronic.errors import CheckpointError
from positronic.generation import Conversation
from positronic.generation.requests.memories import memories_in
from positronic.lm import LM
from positronic.state import Memory

__all__ = ["load_memories", "save_memories"]

FORMAT = 1
KEY = "memories"
ANEW = "Name another file, or delete this one to begin with empty memories."


def save_memories(path: str | os.PathLike[str], conversation: Conversation, model: LM) -> None:
    """Write the memories that `conversation` begins with to the file `path`, whole or not at all."""
    target = Path(path)
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in _tensors(conversation.begun).items()
    }
    body = _body(model, {name: digest(name, tensor) for name, tensor in tensors.items()})
    try:
        replace(target, to_safetensors(tensors, {KEY: canonical_json(body)}))
    except OSError as error:
        raise CheckpointError(
            f"The memories could not be written to {target}: {reason(error)}. What stood there before still stands; "
            f"name a file in a folder that exists, is writable and has room."
        ) from error


def load_memories(path: str | os.PathLike[str], model: LM) -> Conversation:
    """A conversation that begins with what `save_memories` wrote; another model's or a damaged file raises an error."""
    target, fresh = Path(path), list(memories_in(model.init_state(1)))
    found = _read(target, model)
    wanted = _tensors(fresh)
    if {name: (t.dtype, t.shape) for name, t in found.items()} != {n: (t.dtype, t.shape) for n, t in wanted.items()}:
        raise CheckpointError(f"{target} holds memories of another build of positronic. {ANEW}")
    if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
        raise CheckpointError(f"{target} holds memories that are not finite. {ANEW}")
    kept = tree.filled(tuple(fresh), {name: tensor.to(wanted[name].device) for name, tensor in found.items()})
    return Conversation(begun=tuple(memory.carried() for memory in kept))


def _body(model: LM, digests: dict[str, str]) -> dict[str, Any]:
    return {"format": FORMAT, "model": fingerprint(model), "tensors": digests}


def _tensors(memories: Sequence[Memory]) -> dict[str, Tensor]:
    return {path: tensor for path, tensor, _ in tree.tensors(tuple(memories))}


def _read(path: Path, model: LM) -> dict[str, Tensor]:
    """The tensors of a whole file of ours that belongs to this model."""
    if not path.is_file():  # to open a pipe would be to wait for its writer
        raise CheckpointError(f"{path} holds no memories that can be read (it is no plain file). {ANEW}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} holds no memories that can be read ({reason(error)}). {ANEW}") from error
    if text is None:
        raise CheckpointError(f"{path} holds no memories alone; leave out --keep ring-memory, or name another file.")
    check_types(tensors)
    body = parse_json(text.encode(errors="surrogatepass"), path)
    if body == _body(model, {name: digest(name, tensor) for name, tensor in tensors.items()}):
        return tensors
    if isinstance(body, dict) and body.get("model") != fingerprint(model):
        raise CheckpointError(f"{path} holds memories of another model. Go on with that one, or name another file.")
    raise CheckpointError(f"{path} is not what was kept: it was changed or damaged. {ANEW}")
