"""The families and their presets, listed by hand."""

from collections.abc import Callable, Collection
from typing import cast

import torch

from positronic.config import ModelConfig, did_you_mean
from positronic.errors import ConfigError
from positronic.lm import LM
from positronic.models import quazimoto, transformer
from positronic.nn.init import initialize
from positronic.text import Tokenizer, canon
from positronic.traits.engram import EngramTables

__all__ = ["PRESETS", "build", "preset"]

PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "tinygpt-15m": transformer.tinygpt_15m,
    "tinygpt-tiny": transformer.tinygpt_tiny,
    "positronic-tiny": quazimoto.positronic_tiny,
    "positronic-tiny-mixer-only": lambda: quazimoto.mixer_only(quazimoto.positronic_tiny()),
    "positronic-15m": quazimoto.positronic_15m,
    "positronic-15m-mixer-only": lambda: quazimoto.mixer_only(quazimoto.positronic_15m()),
    "positronic-144m": quazimoto.positronic_144m,
    "positronic-144m-mixer-only": lambda: quazimoto.mixer_only(quazimoto.positronic_144m()),
    "control-tiny": transformer.control_tiny,
    "control-tiny-mixer": transformer.control_tiny_mixer,
    "control-12m": transformer.control_12m,
    "control-79m": transformer.control_79m,
    "control-91m": transformer.control_91m,
    "control-144m": transformer.control_144m,
}


def preset(name: str) -> ModelConfig:
    """The config of a preset by its name; an unknown name raises `ConfigError` with the nearest ones."""
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. {did_you_mean(name, PRESETS)}")
    return PRESETS[name]()


def build(
    config: ModelConfig,
    seed: int = 0,
    device: str | torch.device = "cpu",
    loaded: Collection[str] = (),
    tokenizer: Tokenizer | None = None,
) -> LM:
    """The model of a config on `device`, its parameters drawn from `seed`; those named in `loaded` stay unfilled.

    tokenizer: whose canonical ids the model reads where it looks tokens up by their spelling. None: every id is its
    own, or what is loaded says.
    """
    with torch.device("meta"):
        model = config.build()
    model.to_empty(device=device)
    initialize(model, seed, loaded)
    readers = [module for module in model.modules() if isinstance(module, EngramTables)]
    if tokenizer is not None and readers:
        ids = canon(tokenizer)
        for module in readers:
            module.fit_vocabulary(ids)
    return cast(LM, model)
