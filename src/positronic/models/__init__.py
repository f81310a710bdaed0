"""The families and their presets, listed by hand."""

from collections.abc import Callable, Collection
from typing import cast

import torch

from positronic.config import ModelConfig, did_you_mean
from positronic.errors import ConfigError
from positronic.lm import LM
from positronic.models import transformer
from positronic.nn.init import initialize

__all__ = ["PRESETS", "build", "preset"]

PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "tinygpt-15m": transformer.tinygpt_15m,
    "tinygpt-tiny": transformer.tinygpt_tiny,
    "control-79m": transformer.control_79m,
    "control-91m": transformer.control_91m,
    "control-144m": transformer.control_144m,
}


def preset(name: str) -> ModelConfig:
    """The config of a preset by its name; an unknown name raises `ConfigError` with the nearest ones."""
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. {did_you_mean(name, PRESETS)}")
    return PRESETS[name]()


def build(config: ModelConfig, seed: int = 0, device: str | torch.device = "cpu", loaded: Collection[str] = ()) -> LM:
    """The model of a config on `device`, its parameters drawn from `seed`; those named in `loaded` stay unfilled."""
    with torch.device("meta"):
        model = config.build()
    model.to_empty(device=device)
    initialize(model, seed, loaded)
    return cast(LM, model)
