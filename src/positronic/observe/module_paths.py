"""Where in a model a module stands, in two words: the organ it is part of, and the layer."""

from typing import NamedTuple

from torch import nn

from positronic.config import Config
from positronic.nn.stack import Residual

__all__ = ["Place", "kind_of", "module_paths", "place_of"]


class Place(NamedTuple):
    organ: str
    """Kind of the config that built the module, or the model's own part ("embed", "head")."""
    layer: int | None
    """Number among the blocks of the trunk whose mixer is of the same kind, from 1; None: the only one, or no block."""


def module_paths(model: nn.Module) -> dict[str, Place]:
    """The place of each module that a config built, and of the model's own parts, by path."""
    blocks = [(path, kind_of(block.mixer)) for path, block in model.named_modules() if isinstance(block, Residual)]
    layers: dict[str, int | None] = {}
    for path, kind in blocks:
        same = [other for other, of in blocks if of == kind]
        layers[path] = same.index(path) + 1 if len(same) > 1 else None
    found = {path: Place(path, None) for path, _ in model.named_children()}
    for path, module in model.named_modules():
        if path and kind_of(module):
            block = next((block for block in layers if path.startswith(f"{block}.")), "")
            found[path] = Place(kind_of(module), layers.get(block))
    return found


def place_of(path: str, among: dict[str, Place]) -> str:
    """Which of these paths is the nearest above or at `path`."""
    parts = path.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(prefix for prefix in prefixes if prefix in among)


def kind_of(module: nn.Module) -> str:
    """Kind of the config that built a module; "" for none."""
    config = getattr(module, "config", None)
    return config.kind if isinstance(config, Config) else ""
