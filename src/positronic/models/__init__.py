"""The families and their presets, listed by hand."""

import os
from collections.abc import Callable, Collection
from functools import partial
from typing import cast

import torch
from torch import nn

from positronic.config import ModelConfig, did_you_mean
from positronic.errors import ConfigError
from positronic.lm import LM
from positronic.mixers.metric_scores import DotConfig
from positronic.models import chimera, metric, mycel, quazimoto, transformer
from positronic.models.language_model import mixer_only
from positronic.nn import init
from positronic.nn.linear import INIT_STD
from positronic.text import Tokenizer, normalized_ids
from positronic.traits.engram import EngramTables

__all__ = ["PRESETS", "build", "mixer_only", "outline", "preset"]

MOST_TENSORS = 2**16
"""Parameters that a model may have: thousands of layers would take minutes before the first number is drawn."""

PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "tinygpt-15m": transformer.tinygpt_15m,
    "tinygpt-tiny": transformer.tinygpt_tiny,
    "positronic-tiny": quazimoto.positronic_tiny,
    "positronic-tiny-mixer-only": lambda: mixer_only(quazimoto.positronic_tiny()),
    "positronic-15m": quazimoto.positronic_15m,
    "positronic-15m-mixer-only": lambda: mixer_only(quazimoto.positronic_15m()),
    "positronic-144m": quazimoto.positronic_144m,
    "positronic-144m-mixer-only": lambda: mixer_only(quazimoto.positronic_144m()),
    "mycel-tiny": mycel.mycel_tiny,
    "mycel-tiny-mixer-only": lambda: mixer_only(mycel.mycel_tiny()),
    "mycel-10m": mycel.mycel_10m,
    "mycel-10m-mixer-only": lambda: mixer_only(mycel.mycel_10m()),
    "mycel-79m": mycel.mycel_79m,
    "mycel-79m-mixer-only": lambda: mixer_only(mycel.mycel_79m()),
    "moa-tiny": metric.moa_tiny,
    "moa-20m": metric.moa_20m,
    "moa-metric-150m": metric.moa_metric_150m,
    "moa-dot-150m": lambda: metric.scored_by(metric.moa_metric_150m(), DotConfig()),
    "moa-400m": metric.moa_400m,
    **chimera.PRESETS,
    **{name: partial(transformer.control, name) for name in transformer.CONTROLS},
}


def preset(name: str) -> ModelConfig:
    """The config of a preset by its name; an unknown name raises `ConfigError` with the nearest ones."""
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. {did_you_mean(name, PRESETS)}")
    return PRESETS[name]()


def outline(config: ModelConfig) -> nn.Module:
    """The model on the meta device: names and shapes without memory. Beyond MOST_TENSORS parameters it is refused."""
    beyond = ConfigError(
        f"The config of this {config.kind} model asks for more than {MOST_TENSORS:,} parameter tensors, which nothing "
        f"here can run; use fewer layers and parts."
    )
    with init.at_most(MOST_TENSORS, beyond), torch.device("meta"):
        return cast(nn.Module, config.build())


def _check_room(model: nn.Module, device: torch.device) -> None:
    """Raise before memory is asked for that no part of this machine has."""
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory
    elif device.type in ("cpu", "mps") and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    needed = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    if needed > room:
        raise ConfigError(
            f"The weights of this model take {needed / 2**30:,.0f} GiB, and {device.type} has {room / 2**30:,.0f} GiB "
            f"in all. Use smaller sizes; `positronic describe` counts them without memory."
        )


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
    model = outline(config)
    _check_room(model, torch.device(device))
    model.to_empty(device=device)
    scale = config.init_std / INIT_STD if isinstance(config, chimera.ChimeraConfig) else 1.0
    init.initialize(model, seed, loaded, scale)
    readers = [module for module in model.modules() if isinstance(module, EngramTables)]
    if tokenizer is not None and readers:
        ids = normalized_ids(tokenizer)
        for module in readers:
            module.fit_vocabulary(ids)
    return cast(LM, model)
