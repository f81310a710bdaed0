"""Another number of tokens for a model that there is: its embedding, its head, and all that has a row a token.

Old tokens keep their rows. A new one begins as the mean of all others, or as a new model's would; hash tables read it
as a piece of its own, and its phases are those that its id always has.
"""

from typing import Any, cast

import torch
from torch import nn

from positronic.config import ModelConfig
from positronic.lm import LM
from positronic.nn.init import initialize

__all__ = ["resize"]


@torch.no_grad()
def resize(lm: LM, size: int, mean: bool) -> ModelConfig:
    """Give the model a vocabulary of `size`; the config it then has."""
    core: Any = cast(nn.Module, lm)
    config = _resized(lm.config, size)
    grown = config.build()
    initialize(grown, 0)
    for name, module in grown.named_modules():
        here = core.get_submodule(name)
        for table, fresh in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            old = getattr(here, table)
            if old.shape == fresh.shape:
                continue
            rows = fresh.to(old.device, old.dtype)
            kept = min(len(old), size)
            if mean and isinstance(old, nn.Parameter):
                rows[kept:] = old.float().mean(0).to(old.dtype)
            rows[:kept] = old[:kept]
            setattr(here, table, nn.Parameter(rows, old.requires_grad) if isinstance(old, nn.Parameter) else rows)
            if isinstance(here, nn.Embedding):
                here.num_embeddings = size
            elif isinstance(here, nn.Linear):
                here.out_features = size
        if hasattr(here, "config"):
            here.config = module.config
    return config


def _resized(config: ModelConfig, size: int) -> ModelConfig:
    """The config for another vocabulary, whose tables' hashes are found anew."""
    plain = ModelConfig.from_json(_unpinned(config.to_json()) | {"vocab_size": size})
    return plain.fitted(size, cast(int, config.boundary_id))


def _unpinned(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: None if key == "sha256" else _unpinned(value) for key, value in data.items()}
    return [_unpinned(item) for item in data] if isinstance(data, list) else data
