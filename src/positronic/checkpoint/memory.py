"""A conversation in one file: its tokens and what the model made of them, to go on from in another process.

    tensors    tokens, hidden, and every tensor of the state by its path: state.layers.3.buffer.keys
    metadata   one JSON value, "conversation": the numbers of the state by path, a digest of each tensor, the model's
               fingerprint, the tokenizer's hash, and a digest of all this

A state is written field by field, whatever dataclasses it is made of, and read into the structure of the model's own
`init_state`. The file names fields and never a class, so reading it runs nothing. What a state keeps for `commit`, its
`trail`, is left out. So are stamps, which tell the calls of one process apart: they begin anew.

Whoever can write the file can make its digests fit, so nothing in it is taken on trust: every tensor has the type and
the extents that the model's own state has (a buffer of keys may have more rows), every number is one that so many
tokens can have left behind, and all of them are finite.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from positronic.checkpoint.atomic import replace
from positronic.checkpoint.manifest import json_digest
from positronic.checkpoint.reading import parse_json, reason
from positronic.checkpoint.tensors import check_types, digest
from positronic.config import canonical_json
from positronic.errors import CheckpointError
from positronic.generation import Conversation, Exact
from positronic.generation.exact import BEGINNING, WIDTHS, rows_agree
from positronic.lm import LM
from positronic.nn.kv import KVBuffer, KVState
from positronic.state import DecodeState
from positronic.text import Tokenizer

__all__ = ["fingerprint", "load_conversation", "save_conversation"]

FORMAT = 1
FIELDS = {"format", "model", "tokenizer", "exact", "writes", "values", "tensors", "digest"}
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
    try:
        replace(target, raw)
    except OSError as error:
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
    tokens = _tokens(target, tensors.pop(TOKENS, None), model.config.vocab_size)
    writes = _writes(target, body["writes"], len(tokens))
    exact = _exact(target, body["exact"], model.config.max_positions)
    runs_here = exact is None or (exact.threads <= _threads_here() and rows_agree(model, exact))
    if not body["values"] or not runs_here:
        return Conversation(tokens, writes=writes)
    like = model.init_state(1, 0 if exact is None else exact.room)
    device = like.position.device
    hidden = tensors.pop(HIDDEN).to(device, copy=True) if HIDDEN in tensors else None
    state = cast(DecodeState, _Parts(tensors, body["values"]).put_whole(like, STATE, device))
    _check_hidden(hidden, model)
    _check_state(state, len(tokens), max(2 * len(tokens), model.config.vocab_size))
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

    def put(self, like: Any, path: str, device: torch.device, rows: int | None = None) -> Any:
        """The value at `path`; rows: the extent of a buffer that grows, which its tensors may have in any size."""
        if isinstance(like, Tensor):
            tensor = self.tensors.pop(path, None)
            if tensor is None or tensor.dtype != like.dtype or not _same_extents(like, tensor, rows):
                _misfit(path, f"{list(like.shape)} of {like.dtype}")
            return tensor.to(device, copy=True)
        if _begins_anew(like):
            return like
        if like is None or type(like) in (bool, int, float, str):
            value = self.values.pop(path, None)
            if type(value) is not type(like):
                _misfit(path, f"a value like {like!r:.80}")
            return value
        inside = _inside(like, path)
        grows = {"keys": 2, "values": 2, "segments": 1} if isinstance(like, KVBuffer) else {}
        parts = {name: self.put(part, f"{path}.{name}", device, grows.get(name)) for name, part in inside.items()}
        return tuple(parts.values()) if isinstance(like, tuple) else dataclasses.replace(like, **parts)


def _tokens(path: Path, found: Tensor | None, vocab_size: int) -> tuple[int, ...]:
    if found is None or found.dtype != torch.long or found.dim() != 1:
        _damaged(path, "it has no list of tokens")
    tokens = tuple(found.tolist())
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
        _damaged(path, f"it has tokens outside the vocabulary of {vocab_size}")
    return tokens


def _writes(path: Path, found: Any, n_tokens: int) -> tuple[tuple[int, bool], ...]:
    pairs = found if isinstance(found, list) else []
    if not all(isinstance(p, list) and [type(x) for x in p] == [int, bool] for p in pairs):
        _damaged(path, "it does not say from which token on memories were written")
    firsts = [first for first, _ in pairs]
    if firsts[:1] != [0] or firsts != sorted(set(firsts)) or firsts[-1] > n_tokens:
        _damaged(path, f"it says that memories were written from tokens {firsts!s:.80} on")
    return tuple((first, written) for first, written in pairs)


def _exact(path: Path, found: Any, max_positions: int) -> Exact | None:
    if found is None:
        return None
    names = [field.name for field in dataclasses.fields(Exact)]
    if not isinstance(found, dict) or sorted(found) != sorted(names) or any(type(x) is not int for x in found.values()):
        _damaged(path, "it does not say at which width it was made")
    exact = Exact(**found)
    least = BEGINNING + 3 * exact.width
    most = max(max_positions + exact.width, least)
    if exact.width not in WIDTHS or exact.threads < 1 or not least <= exact.room <= most:
        _damaged(path, f"width {exact.width}, {exact.threads} threads and room for {exact.room} tokens cannot be")
    return exact


def _threads_here() -> int:
    return max(os.cpu_count() or 1, torch.get_num_threads())


def _check_hidden(hidden: Tensor | None, model: LM) -> None:
    if hidden is None:
        return
    dtype = next(p.dtype for p in cast(nn.Module, model).parameters() if p.is_floating_point())
    if hidden.shape != (1, model.config.d_model) or hidden.dtype != dtype:
        _misfit(HIDDEN, f"[1, {model.config.d_model}] of {dtype}")
    _check_numbers(hidden, HIDDEN, 0)


def _check_state(state: DecodeState, n_tokens: int, most: int) -> None:
    """Raise unless this many tokens can have left the state behind; no whole number in it is above `most`."""
    position = int(state.position)
    if not 0 <= int(state.start) <= position < n_tokens or position == 0:
        _misfit(f"{STATE}.position", f"no place after {position} of {n_tokens} tokens")
    if not 0 <= int(state.segment) <= 2 * position:  # each end of a document counts two: itself, and what follows
        _misfit(f"{STATE}.segment", f"no document {int(state.segment)} in {position} tokens")
    _check_inside(state, STATE, position, most)


def _check_inside(value: Any, path: str, position: int, most: int) -> None:
    if isinstance(value, Tensor):
        _check_numbers(value, path, most)
        return
    if isinstance(value, KVState):
        rows = {value.buffer.keys.shape[2], value.buffer.values.shape[2], value.buffer.segments.shape[1]}
        if value.length != position + value.lead or not 0 <= value.start <= value.length or len(rows) > 1:
            _misfit(f"{path}.length", f"{position + value.lead} rows of keys")
        if min(rows) < value.length:
            _misfit(f"{path}.buffer", f"{value.length} rows of keys or more")
    if isinstance(value, tuple) or dataclasses.is_dataclass(value):
        for name, part in _inside(value, path).items():
            _check_inside(part, f"{path}.{name}", position, most)


def _check_numbers(tensor: Tensor, path: str, most: int) -> None:
    if tensor.is_floating_point():
        if not bool(tensor.isfinite().all()):
            _misfit(path, "no numbers that are not finite")
    elif tensor.numel() and not -1 <= int(tensor.min()) <= int(tensor.max()) <= most:
        _misfit(path, f"whole numbers from -1 to {most}")


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


def _same_extents(like: Tensor, tensor: Tensor, free: int | None) -> bool:
    pairs = enumerate(zip(like.shape, tensor.shape, strict=False))
    return like.dim() == tensor.dim() and all(a == b or extent == free for extent, (a, b) in pairs)


def _misfit(path: str, what: str) -> NoReturn:
    raise CheckpointError(
        f"The kept conversation has another {path} than the state of this model, which has {what}: it was kept by "
        f"another build of positronic, or damaged. {ANEW}"
    )


def _damaged(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{path} is not the conversation that was kept: {what}. {ANEW}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says and its tensors, windows into it; anything but a whole file of ours raises."""
    if not path.is_file():  # to open a pipe would be to wait for its writer
        raise CheckpointError(f"{path} holds no conversation that can be read (it is no plain file). {ANEW}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(KEY, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} holds no conversation that can be read ({reason(error)}). {ANEW}") from error
    if not text:
        raise CheckpointError(f"{path} holds no conversation that can be read (it says nothing about one). {ANEW}")
    body = parse_json(text.encode(), path, ANEW)
    version = body.get("format") if isinstance(body, dict) else None
    if type(version) is int and version > FORMAT:
        raise CheckpointError(
            f"{path} was kept in format {version}, and this build reads up to {FORMAT}. Upgrade positronic."
        )
    if version != FORMAT or type(version) is not int or body.keys() != FIELDS:
        _damaged(path, "it does not say what a kept conversation says")
    if json_digest({name: part for name, part in body.items() if name != "digest"}) != body["digest"]:
        _damaged(path, "it was changed or damaged")
    check_types(tensors)
    if {name: digest(name, tensor) for name, tensor in tensors.items()} != body["tensors"]:
        _damaged(path, "it was changed or damaged")
    values = body["values"]
    if not isinstance(values, dict) or any(isinstance(value, dict | list) for value in values.values()):
        _damaged(path, "its state has values that are none")
    if not isinstance(body["model"], str) or not isinstance(body["tokenizer"], str | None):
        _damaged(path, "it does not say whose it is")
    return body, tensors
