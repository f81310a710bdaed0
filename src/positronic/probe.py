"""Looking inside: a probe watches named taps and captures, summarises or replaces what passes there.

    probe = Probe(model, {"trunk.*.mixer:hidden": capture})
    model(tokens, options=ForwardOptions(probe=probe))      ->     probe.seen["trunk.1.mixer:hidden"]

A tap's address is the path of its module in the model and the tap's name. Patterns are shell-style (`*`, `?`, `[...]`).
A verb takes the tensor and returns a pair: what to record (None: nothing) and what flows on.
"""

import fnmatch
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from positronic.errors import ConfigError

__all__ = ["Probe", "Tap", "Verb", "capture", "replace", "summarise"]

Verb = Callable[[Tensor], tuple[Any, Tensor]]


def capture(x: Tensor) -> tuple[Any, Tensor]:
    """Record a detached copy; let the tensor pass."""
    return x.detach().clone(), x


def summarise(statistic: Callable[[Tensor], Any]) -> Verb:
    """Record `statistic(x)`, computed without gradient; let the tensor pass."""

    def verb(x: Tensor) -> tuple[Any, Tensor]:
        with torch.no_grad():
            return statistic(x), x

    return verb


def replace(change: Callable[[Tensor], Tensor]) -> Verb:
    """Record nothing; let `change(x)` pass in place of x. `replace(torch.zeros_like)` silences an organ."""
    return lambda x: (None, change(x))


class Tap(NamedTuple):
    """What a module shows at one of its taps, which it declares in `taps`, by name."""

    shows: str
    silent: Callable[[Tensor], Tensor] | None = None
    """What passes there where its organ is switched off; None: nothing is switched off here."""
    organ: str = ""
    """The kind of config whose organ is heard here; "": the module's own."""


class Probe:
    """Verbs by address pattern, for one model. `seen` holds a list a tap, one entry a call, in order."""

    def __init__(self, model: nn.Module, verbs: Mapping[str, Verb]):
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.verbs = dict(verbs)
        self.seen: dict[str, list[Any]] = {}

    def __call__(self, owner: nn.Module, name: str, x: Tensor) -> Tensor:
        path = self.paths.get(id(owner))
        if path is None:
            raise ConfigError(f"Tap {name!r} belongs to a module outside the probed model; probe the model that runs.")
        address = f"{path}:{name}"
        for pattern, verb in self.verbs.items():
            if fnmatch.fnmatchcase(address, pattern):
                record, x = verb(x)
                if record is not None:
                    self.seen.setdefault(address, []).append(record)
        return x
