"""A conversation in one file: its tokens and what the model made of them, to go on from in another process.

    tensors    tokens, hidden, and every tensor of the state by its path: state.layers.3.buffer.keys
    metadata   one JSON value, "conversation": the numbers of the state by path, a digest of each tensor, the model's
               fingerprint, the tokenizer's hash, and a digest of all this

A state is written field by field, whatever dataclasses it is made of, and read into the structure of the model's own
`init_state`. The file names fields and never a class, so reading it runs nothing. What a state keeps for `commit`, its
`trail`, is left out. So are stamps, which tell the calls of one process apart: they begin anew.

An extent that is 0 before the first token grows, and may have any size in the file; all others are the model's.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from positronic.checkpoint.atomic import sync
from positronic.checkpoint.manifest import json_digest
from positronic.checkpoint.reading import reason
from positronic.checkpoint.tensors import check_types, digest
from positronic.config import canonical_json
from positronic.errors import CheckpointError
from positronic.generation import Conversation, Exact
from positronic.generation.exact import rows_agree
from positronic.lm import LM
from positronic.state import DecodeState
from positronic.text import Tokenizer

__all__ = ["fingerprint", "load_conversation", "save_conversation"]

FORMAT = 1
KEY, TOKENS, HIDDEN, STATE = "conversation", "tokens", "hidden", "state"
TRAIL = "trail"
"""The field of a state that only `commit` reads, by the convention of `positronic.state`."""
ANEW = "Name another file, or delete this one to begin a new conversation."


def save_conversation(
    path: str | os.PathLike[str], conversation: Conversation, model: LM, tokenizer: Tokenizer | None = None
) -> Path:
    """Write `conversation` to the file `path`, whole or not at all; what stood there before gives way.

    With a tokenizer, its hash is kept too, and another one is refused on loading.
    """
    target, parts = Path(path), _Parts({TOKENS: torch.tensor(conversation.tokens, dtype=torch.long)}, {})
    state, hidden, exact = conversation.state, conversation.hidden, conversation.exact
    if state is not None and bool(state.position[0] > 0):
        parts.take(state.select(torch.zeros(1, dtype=torch.long, device=state.position.device)), STATE)
        if hidden is not None:
            parts.tensors[HIDDEN] = hidden
    check_types(parts.tensors)
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in parts.tensors.items()}
    body = {
        "format": FORMAT,
        "model": fingerprint(model),
        "tokenizer": None if tokenizer is None else tokenizer.sha256,
        "exact": None if exact is None else dataclasses.asdict(exact),
        "writes": conversation.writes,
        "values": parts.values,
        "tensors": {name: digest(name, tensor) for name, tensor in tensors.items()},
    }
    raw = to_safetensors(tensors, {KEY: canonical_json(body | {"digest": json_digest(body)})})
    new = target.with_name(f".{target.name}.new")
    try:
        new.write_bytes(raw)
        sync(new)
        os.replace(new, target)
        sync(target.absolute().parent)
    except OSError as error:
        if new.exists():
            new.unlink()
        raise CheckpointError(
            f"The conversation could not be written to {target}: {reason(error)}. What stood there before still "
            f"stands; name a file in a folder that exists, is writable and has {len(raw) / 2**20:.1f} MiB left."
        ) from error
    return target


def load_conversation(path: str | os.PathLike[str], model: LM, tokenizer: Tokenizer | None = None) -> Conversation:
    """What `save_conversation` wrote, on the device of `model`; another model or a damaged file raises an error.

    An exact width that this machine's rows do not pass is left out, and the state with it: both are made again.
    """
    target = Path(path)
    body, tensors = _read(target)
    _hold(target, "model", body["model"], fingerprint(model))
    if tokenizer is not None and body["tokenizer"] is not None:
        _hold(target, "tokenizer", body["tokenizer"], tokenizer.sha256)
    tokens = tuple(tensors.pop(TOKENS).tolist())
    writes = tuple((first, written) for first, written in body["writes"])
    exact = None if body["exact"] is None else Exact(**body["exact"])
    if not body["values"] or (exact is not None and not rows_agree(model, exact)):
        return Conversation(tokens, writes=writes)
    like = model.init_state(1, 0 if exact is None else exact.room)
    device = like.position.device
    hidden = tensors.pop(HIDDEN).to(device, copy=True) if HIDDEN in tensors else None
    state = cast(DecodeState, _Parts(tensors, body["values"]).put_whole(like, STATE, device))
    return Conversation(tokens, state, hidden, exact, writes)


def fingerprint(model: LM) -> str:
    """SHA-256 over the config and the names, types, shapes and values of all weights."""
    weights = cast(nn.Module, model).state_dict()
    digests = {name: digest(name, tensor.detach().cpu()) for name, tensor in weights.items()}
    return json_digest({"config": model.config.to_json(), "weights": digests})


class _Parts(NamedTuple):
    """A state taken apart: what lies at each path."""

    tensors: dict[str, Tensor]
    values: dict[str, bool | int | float | str | None]

    def take(self, value: Any, path: str) -> None:
        """Put the parts of `value` under their paths."""
        if isinstance(value, Tensor):
            self.tensors[path] = value
        elif value is None or type(value) in (bool, int, float, str):
            self.values[path] = value
        elif not _begins_anew(value):
            for name, part in _inside(value, path).items():
                self.take(part, f"{path}.{name}")

    def put_whole(self, like: Any, path: str, device: torch.device) -> Any:
        """The value at `path`, in the structure of `like`; parts that have no place there raise."""
        value = self.put(like, path, device)
        if self.tensors or self.values:
            _misfit(min([*self.tensors, *self.values]), "no place")
        return value

    def put(self, like: Any, path: str, device: torch.device) -> Any:
        if path in self.tensors:
            tensor = self.tensors.pop(path)
            if not (like is None or (isinstance(like, Tensor) and _grows_into(like, tensor))):
                _misfit(path, f"another place than {list(tensor.shape)} of {tensor.dtype}")
            return tensor.to(device, copy=True)
        if path in self.values:
            value = self.values.pop(path)
            if not (like is None or value is None or type(value) is type(like)):
                _misfit(path, f"another place than {value!r:.80}")
            return value
        if like is None or _begins_anew(like):
            return like
        inside = _inside(like, path)
        parts = {name: self.put(part, f"{path}.{name}", device) for name, part in inside.items()}
        return tuple(parts.values()) if isinstance(like, tuple) else dataclasses.replace(like, **parts)


def _hold(path: Path, what: str, found: str, ours: str) -> None:
    if found != ours:
        raise CheckpointError(
            f"--keep-memory {path} belongs to another {what}: its fingerprint begins {found[:12]}, this one's "
            f"{ours[:12]}. Go on with the checkpoint that it was kept with, or name another file."
        )


def _inside(value: Any, path: str) -> dict[str, Any]:
    """The parts of a dataclass or of a tuple by name."""
    if type(value) is tuple:
        return {str(index): part for index, part in enumerate(value)}
    if not dataclasses.is_dataclass(value):
        raise CheckpointError(
            f"{path} of the state is a {type(value).__name__}, which a file cannot hold; keep tensors, numbers and "
            f"dataclasses of these in states."
        )
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.name != TRAIL}


def _begins_anew(value: Any) -> bool:
    """Whether this is a stamp or a log of stamps."""
    return type(value) in (object, list)


def _grows_into(like: Tensor, tensor: Tensor) -> bool:
    extents = zip(like.shape, tensor.shape, strict=False)
    return like.dtype == tensor.dtype and like.dim() == tensor.dim() and all(a in (0, b) for a, b in extents)


def _misfit(path: str, what: str) -> NoReturn:
    raise CheckpointError(
        f"The kept conversation has {path}, for which the state of this model has {what}: it was kept by another build "
        f"of positronic. {ANEW}"
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says and its tensors, windows into it; anything but a whole file of ours raises."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(KEY, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        body = json.loads(text)
        expected = body.pop("digest")
        whole = json_digest(body) == expected
    except (SafetensorError, OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no conversation that can be read ({reason(error)}). {ANEW}") from error
    if whole and body["format"] > FORMAT:
        raise CheckpointError(
            f"{path} was kept in format {body['format']}, and this build reads up to {FORMAT}. Upgrade positronic."
        )
    check_types(tensors)
    if not whole or {name: digest(name, tensor) for name, tensor in tensors.items()} != body["tensors"]:
        raise CheckpointError(f"{path} is not the conversation that was kept: it was changed or damaged. {ANEW}")
    return body, tensors
