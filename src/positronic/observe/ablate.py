"""Organs off: the same weights with some mechanisms silenced, at evaluation, by replacing what passes at their taps.

An organ is named by the kind of its config, and all modules of that kind are silenced together. Which tap says that a
module is heard follows from the tap's name:

    ...branch     of a `Residual`: what its mixer adds to the stream          -> 0
    ...current    of an injection: what it adds to a bank of oscillators      -> 0
    phase_seed    of the bank: the phases that "fractal_phase" seeds          -> 0
    modulation    of "ring_controller", its values on the last axis           -> 1, 0, 1, 1 (`lm.Modulation`)

A mechanism that taps one of the first two needs nothing here. Weights and state keep their shape, and an organ that is
silenced still writes its memories. Switching a mechanism off says what the rest lost with it, not what it would have
learned without it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.lm import LM, Modulation
from positronic.nn.stack import Residual
from positronic.probe import Probe, Verb, capture, replace
from positronic.state import Step

__all__ = ["Ablation", "ablate", "ablation_table", "organs_of"]

NEUTRAL = Modulation(gain=1.0, lag=0.0, centre=1.0, drive=1.0)  # type: ignore[arg-type]
"""What changes no bit of a bank."""


class Ablation(NamedTuple):
    """What one organ does to the logits of given tokens."""

    organ: str
    largest_change: float
    """Of a logit, absolute."""
    flips: int
    """Tokens whose most likely successor is another without the organ."""
    n: int
    """Tokens."""


def ablate(model: LM, organs: Iterable[str]) -> Probe:
    """A probe under which these organs are silent; one that the model lacks raises `ConfigError`."""
    known = organs_of(model)
    verbs: dict[str, Verb] = {}
    for organ in organs:
        if organ not in known:
            raise ConfigError(
                f"This model has no organ {organ!r} that evaluation could do without; it has {', '.join(known)}. "
                f"Name some of these."
            )
        verbs |= known[organ]
    return Probe(cast(nn.Module, model), verbs)


@torch.no_grad()
def ablation_table(model: LM, tokens: Tensor, organs: Sequence[str]) -> list[Ablation]:
    """What each organ alone does to the logits of `tokens` (B, T), read without a state."""
    whole, rows = _logits(model, tokens, None), []
    for organ in organs:
        without = _logits(model, tokens, ablate(model, [organ]))
        flips = int((without.argmax(-1) != whole.argmax(-1)).sum())
        rows.append(Ablation(organ, float((without - whole).abs().max()), flips, tokens.numel()))
    return rows


@torch.no_grad()
def organs_of(model: LM) -> dict[str, dict[str, Verb]]:
    """The organs that can be silenced, by name, and what to do at which taps; found by reading two tokens."""
    module = cast(nn.Module, model)
    seen = Probe(module, {"*": capture})
    tokens = torch.zeros(1, 2, dtype=torch.long, device=next(module.parameters()).device)
    model(tokens, step=Step(tokens, tokens, probe=seen))
    found: dict[str, dict[str, Verb]] = {}
    for address in sorted(seen.seen):
        path, _, tap = address.partition(":")
        organ, silent = _silenced(module.get_submodule(path), tap)
        if organ:
            found.setdefault(organ, {})[address] = replace(silent)
    return dict(sorted(found.items()))


def _silenced(owner: nn.Module, tap: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The organ that is heard at this tap, "" for none, and what passes there when it is not."""
    if tap == "phase_seed":
        return "fractal_phase", torch.zeros_like
    if tap == "modulation":
        return _kind(owner), _neutral
    if tap.endswith("branch") and isinstance(owner, Residual):
        return _kind(owner.mixer), torch.zeros_like
    return _kind(owner) if tap.endswith("current") else "", torch.zeros_like


def _kind(module: nn.Module) -> str:
    config = getattr(module, "config", None)
    return config.kind if isinstance(config, Config) else ""


def _neutral(modulation: Tensor) -> Tensor:
    """(..., 4)"""
    return modulation.new_tensor(NEUTRAL).expand_as(modulation)


def _logits(model: LM, tokens: Tensor, probe: Probe | None) -> Tensor:
    return model.logits(model(tokens, step=Step(tokens, tokens, probe=probe)).hidden).float()
