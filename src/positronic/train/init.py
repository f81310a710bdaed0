"""Starting from another run's weights: all of them, and new parts only where they are silent.

With another vocabulary every id means another piece, so what is looked up by id is drawn anew and the trunk is kept.
"""

import os
from typing import cast

import torch
from torch import Tensor, nn

from positronic.checkpoint import load_model
from positronic.errors import CheckpointError
from positronic.lm import LM
from positronic.nn.linear import Embedding
from positronic.train.nonfinite import first_unsound
from positronic.traits.engram import EngramTables

__all__ = ["init_from", "trunk_from"]

PROBE_TOKENS = 64
BY_ID = (Embedding, EngramTables)
"""Modules that look up by id what they learned; the head is the embedding's matrix."""
OWN_HEAD = "unembed"
"""The matrix of a head that does not multiply by the embedding; a linear map of PyTorch's, known by its name."""


def init_from(folder: str | os.PathLike[str], model: LM) -> None:
    """Fill `model`, already built, with the weights of the checkpoint in `folder`.

    Parts that the checkpoint lacks keep their first values, if they change nothing yet: logits on fixed tokens must
    equal the checkpoint's bit for bit. Anything else raises `CheckpointError` and leaves `model` to be thrown away.
    """
    old = load_model(folder)
    added = _fill(folder, _weights(old), _weights(model))
    if added and not _same_logits(old, model):
        raise CheckpointError(
            f"{folder} lacks {len(added)} parameters of this model ({added[0]}, ...), and with them the logits differ. "
            f"Only parts that are silent when new may be added; leave them out, or train from scratch."
        )


def trunk_from(folder: str | os.PathLike[str], model: LM) -> None:
    """Fill `model`, built for another vocabulary, with the checkpoint's weights but those that are looked up by id.

    Embedding, head and engram tables keep their first values; no other part may be added or left out.
    """
    old = load_model(folder)
    anew, theirs = _by_id(model), {k: v for k, v in _weights(old).items() if k not in _by_id(old)}
    added = _fill(folder, theirs, {k: v for k, v in _weights(model).items() if k not in anew})
    if added:
        raise CheckpointError(
            f"{folder} lacks {added[0]}. With another vocabulary no part can be added; begin with the config that is "
            f"in that folder, and add it in a run from this one's weights."
        )


def _fill(folder: str | os.PathLike[str], theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> list[str]:
    """Copy all of `theirs` into `ours`; the names of ours that they lack."""
    strange = [name for name in theirs if name not in ours]
    misshapen = [name for name in theirs if name in ours and theirs[name].shape != ours[name].shape]
    if strange or misshapen:
        name = (strange + misshapen)[0]
        found = f"{list(ours[name].shape)} in this model" if misshapen and not strange else "not in this model"
        raise CheckpointError(
            f"{folder} has {name} of shape {list(theirs[name].shape)}, which is {found}. "
            f"--init needs a model that contains the other's parts; use the config that is in that folder."
        )
    broken = first_unsound(theirs)
    if broken is not None:
        raise CheckpointError(f"In {folder} {broken} is not finite. Begin from another checkpoint.")
    with torch.no_grad():
        for name, values in theirs.items():
            ours[name].copy_(values)
    return [name for name in ours if name not in theirs]


def _weights(model: LM) -> dict[str, Tensor]:
    return cast(nn.Module, model).state_dict()


def _by_id(model: LM) -> set[str]:
    """Names of the tensors that hold something for each id, or for each hash of ids."""
    modules = dict(cast(nn.Module, model).named_modules())
    kept = [path for path, module in modules.items() if isinstance(module, BY_ID) or path == OWN_HEAD]
    return {f"{path}.{name}" for path in kept for name in modules[path].state_dict()}


def _same_logits(old: LM, new: LM) -> bool:
    """Bit for bit, on one row of tokens spread over the vocabulary."""
    size = min(old.config.vocab_size, new.config.vocab_size)
    length = min(PROBE_TOKENS, old.config.context)
    tokens = (torch.arange(length) * 7919 % size)[None]
    logits = []
    for model in (old, new):
        module = cast(nn.Module, model)
        was_training, device = module.training, next(module.parameters()).device
        module.eval()
        with torch.no_grad():
            logits.append(model.logits(model(tokens.to(device)).hidden).float().cpu())
        module.train(was_training)
    return torch.equal(*logits)
