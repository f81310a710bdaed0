"""Whole models in which every config of a model occurs, and a walk over their fields."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import positronic.recipes  # noqa: F401  (registers what plans a run)
from laws import MHA, MIXERS, MODELS, D
from positronic.config import Config, ModelConfig
from positronic.mixers.metric_scores import CosineConfig, DotConfig, L2Config
from positronic.mixers.radius import PairConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.nn.ternary import TernaryConfig
from positronic.traits.jepa import JEPAConfig
from positronic.traits.mtp import MTPConfig

OTHERS = (
    MHA.replace(score=L2Config(), prune=PairConfig(radius=6.0)),
    MHA.replace(score=CosineConfig(), prune=None),
    MHA.replace(score=DotConfig(), triangles=0),
)


def in_blocks(chimera: Any) -> ModelConfig:
    """It with widths that ternary weights can have."""
    heads = {"n_heads": 1, "head_dim": 64, "gate_rank": 64}
    mixers = {name: getattr(chimera, name).replace(**heads) for name in ("gated_delta", "mlstm", "span_knot")}
    titans, experts = chimera.titans.replace(head_dim=64), chimera.experts.replace(hidden=64)
    channel = chimera.channel.replace(hidden=192)
    sizes = {**mixers, "titans": titans, "experts": experts, "channel": channel, "d_model": 64}
    return chimera.replace(**sizes, weights=TernaryConfig())


WHOLE: dict[str, ModelConfig] = MODELS | {
    "metric": MODELS["metric"].replace(
        latents=JEPAConfig(ahead=2, hidden=24),
        mixture=MODELS["metric"].mixture.replace(heads=(*MODELS["metric"].mixture.heads, *OTHERS)),
    ),
    **{
        name: config.replace(
            drafts=MTPConfig(heads=3, hidden=24),
            latents=JEPAConfig(ahead=2, hidden=24),
            looping=config.looping.replace(exit_below=0.5),
        )
        for name, config in MODELS.items()
        if name.startswith("chimera")
    },
    "mycel": MODELS["mycel"].replace(
        refiners=(*MODELS["mycel"].refiners, SwiGLUConfig(hidden=D), MIXERS["titans-one-group"])
    ),
}
WHOLE["chimera-ternary"] = in_blocks(WHOLE["chimera-1"])
MODEL_PARTS = ("positronic.mixers.", "positronic.traits.", "positronic.models.", "positronic.nn.")
Path = tuple[str | int, ...]


def every_kind() -> dict[str, type[Config]]:
    """The configs of models, whose modules are imported for it, and of what trains them."""
    for part in MODEL_PARTS:
        package = importlib.import_module(part.removesuffix("."))
        for module in pkgutil.iter_modules(package.__path__, part):
            importlib.import_module(module.name)
    return {kind: found for kind, found in Config.registry.items() if found.__module__.startswith("positronic.")}


def nodes(config: Config, path: Path = ()) -> Iterator[tuple[Path, Config]]:
    """A config and all inside it, with the path to each."""
    yield path, config
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Config):
            yield from nodes(value, (*path, field.name))
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Config):
                    yield from nodes(item, (*path, field.name, index))


def put(tree: Any, path: Path, value: Any) -> Any:
    """A copy of a JSON value with another at the path."""
    if not path:
        return value
    copied = dict(tree) if isinstance(tree, dict) else list(tree)
    copied[path[0]] = put(copied[path[0]], path[1:], value)
    return copied


def at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree
