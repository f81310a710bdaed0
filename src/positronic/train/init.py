"""Starting from another run's weights: all of them, and new parts only where they are silent."""

import os
from typing import cast

import torch
from torch import nn

from positronic.checkpoint import load_model
from positronic.errors import CheckpointError
from positronic.lm import LM

__all__ = ["init_from"]

PROBE_TOKENS = 64


def init_from(folder: str | os.PathLike[str], model: LM) -> None:
    """Fill `model`, already built, with the weights of the checkpoint in `folder`.

    Parts that the checkpoint lacks keep their first values, if they change nothing yet: logits on fixed tokens must
    equal the checkpoint's bit for bit. Anything else raises `CheckpointError` and leaves `model` to be thrown away.
    """
    old, new = cast(nn.Module, load_model(folder)), cast(nn.Module, model)
    theirs, ours = old.state_dict(), new.state_dict()
    strange = [name for name in theirs if name not in ours]
    misshapen = [name for name in theirs if name in ours and theirs[name].shape != ours[name].shape]
    if strange or misshapen:
        name = (strange + misshapen)[0]
        found = f"{list(ours[name].shape)} in this model" if misshapen and not strange else "not in this model"
        raise CheckpointError(
            f"{folder} has {name} of shape {list(theirs[name].shape)}, which is {found}. "
            f"--init needs a model that contains the other's parts; use the config that is in that folder."
        )
    with torch.no_grad():
        for name, values in theirs.items():
            ours[name].copy_(values)
    added = [name for name in ours if name not in theirs]
    if added and not _same_logits(cast(LM, old), model):
        raise CheckpointError(
            f"{folder} lacks {len(added)} parameters of this model ({added[0]}, ...), and with them the logits differ. "
            f"Only parts that are silent when new may be added; leave them out, or train from scratch."
        )


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
