"""A conversation in one file: its tokens and what the model made of them, to go on from in another process.

    tensors    tokens, hidden, and every tensor of the state by its path: state.layers.3.keys
    metadata   one JSON value, "conversation": a digest of each tensor, the model's fingerprint, the tokenizer's hash,
               and a digest of all this

A state is written as the tree that it is (`positronic.tree`) and read into the structure of the model's own
`init_state`. The file names fields and never a class, so reading it runs nothing. What a state keeps for `commit`, its
`rollback`, is left out, and so is room that holds no token's entry.

Whoever can write the file can make its digests fit, so nothing in it is taken on trust: every tensor has the type and
the extents that the model's own state has, one entry a token where it grows, every number is one that so many tokens
can have left behind, and all of them are finite.
"""

import dataclasses
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from positronic import tree
from positronic.checkpoint.atomic import replace as put_in_place
from positronic.checkpoint.manifest import json_digest
from positronic.checkpoint.reading import parse_json, reason
from positronic.checkpoint.tensors import check_types, digest
from positronic.config import canonical_json
from positronic.errors import CheckpointError
from positronic.generation import Conversation, Exact
from positronic.generation.decoding.exact import BEGINNING, WIDTHS, rows_agree
from positronic.lm import LM
from positronic.state import DecodeState
from positronic.text import Tokenizer

__all__ = ["fingerprint", "load_conversation", "save_conversation"]

FORMAT = 2
FIELDS = {"format", "model", "tokenizer", "exact", "writes", "tensors", "digest"}
KEY, TOKENS, HIDDEN, STATE = "conversation", "tokens", "hidden", "state"
ANEW = "Name another file, or delete this one to begin a new conversation."


def save_conversation(
    path: str | os.PathLike[str], conversation: Conversation, model: LM, tokenizer: Tokenizer | None = None
) -> Path:
    """Write `conversation` to the file `path`, whole or not at all; what stood there before gives way.

    With a tokenizer, its hash is kept too, and another one is refused on loading.
    """
    target, found = Path(path), {TOKENS: torch.tensor(conversation.tokens, dtype=torch.long)}
    state, hidden, exact = conversation.state, conversation.hidden, conversation.exact
    if state is not None and bool(state.position[0] > 0):
        read = tree.extended(state, int(state.position[0]))
        found |= {f"{STATE}.{name}": tensor[:1] for name, tensor, _ in tree.tensors(read)}
        if hidden is not None:
            found[HIDDEN] = hidden
    check_types(found)
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in found.items()}
    body = {
        "format": FORMAT,
        "model": fingerprint(model),
        "tokenizer": None if tokenizer is None else tokenizer.sha256,
        "exact": None if exact is None else dataclasses.asdict(exact),
        "writes": conversation.writes,
        "tensors": {name: digest(name, tensor) for name, tensor in tensors.items()},
    }
    raw = to_safetensors(tensors, {KEY: canonical_json(body | {"digest": json_digest(body)})})
    try:
        put_in_place(target, raw)
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
    if not tensors or not runs_here:
        return Conversation(tokens, writes=writes)
    like = model.init_state(1, 0 if exact is None else exact.room)
    hidden = tensors.pop(HIDDEN).to(like.position.device, copy=True) if HIDDEN in tensors else None
    state = _state(tensors, like, len(tokens))
    _check_hidden(hidden, model)
    _check_state(state, max(2 * len(tokens), model.config.vocab_size))
    return Conversation(tokens, state, hidden, exact, writes)


def fingerprint(model: LM) -> str:
    """SHA-256 over the config and the names, types, shapes and values of all weights."""
    weights = cast(nn.Module, model).state_dict()
    digests = {name: digest(name, tensor.detach().cpu()) for name, tensor in weights.items()}
    return json_digest({"config": model.config.to_json(), "weights": digests})


def _state(found: dict[str, Tensor], like: DecodeState, n_tokens: int) -> DecodeState:
    """The state of one row whose tensors were found, in the structure of `like`; what does not fit raises."""
    wanted = {f"{STATE}.{path}": (tensor, axis) for path, tensor, axis in tree.tensors(like)}
    for name in sorted(wanted.keys() | found.keys()):
        tensor, (own, axis) = found.get(name), wanted.get(name, (None, None))
        if own is None:
            _misfit(name, "no place")
        if tensor is None or tensor.dtype != own.dtype or not _same_extents(own, tensor, axis):
            _misfit(name, f"{list(own.shape)} of {own.dtype}")
    device = like.position.device
    state = tree.filled(like, {name: tensor.to(device, copy=True) for name, tensor in found.items()}, f"{STATE}.")
    read = int(state.position)
    if not 0 < read < n_tokens:
        _misfit(f"{STATE}.position", f"no place after {read} of {n_tokens} tokens")
    _check_entries(state, read)
    if like.capacity:
        return replace(state, length=read).with_capacity(like.capacity)
    return replace(state, length=read)


def _check_entries(state: DecodeState, read: int) -> None:
    """Raise unless tensors that grow hold one entry for each token that was read."""
    for node in tree.nodes(state.layers):
        for path, tensor, axis in tree.tensors(node):
            if "." not in path and axis is not None and tensor.shape[axis] != node.lead + read:
                _misfit(f"{STATE}.layers: {path}", f"{node.lead + read} rows of keys")


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


def _check_state(state: DecodeState, most: int) -> None:
    """Raise unless what was read can have left the state behind; no whole number in it is above `most`."""
    position, segment = int(state.position), int(state.segment)
    if not 0 <= segment <= 2 * position:  # each end of a document counts two: itself, and what follows
        _misfit(f"{STATE}.segment", f"no document {segment} in {position} tokens")
    if not 0 <= int(state.began) <= position:
        _misfit(f"{STATE}.began", f"no document that begins at {int(state.began)} in {position} tokens")
    for path, tensor, _ in tree.tensors(state):
        _check_numbers(tensor, f"{STATE}.{path}", most)


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
    if version == 1:
        raise CheckpointError(f"{path} was kept by an earlier build of positronic, whose states were others. {ANEW}")
    if version != FORMAT or type(version) is not int or body.keys() != FIELDS:
        _damaged(path, "it does not say what a kept conversation says")
    if json_digest({name: part for name, part in body.items() if name != "digest"}) != body["digest"]:
        _damaged(path, "it was changed or damaged")
    check_types(tensors)
    if {name: digest(name, tensor) for name, tensor in tensors.items()} != body["tensors"]:
        _damaged(path, "it was changed or damaged")
    if not isinstance(body["model"], str) or not isinstance(body["tokenizer"], str | None):
        _damaged(path, "it does not say whose it is")
    return body, tensors
