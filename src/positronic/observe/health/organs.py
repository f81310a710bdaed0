"""Readings of attention, SwiGLU and MLP, the oscillators and their organs, and the refiners."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from positronic.kernels.kuramoto import order_parameters
from positronic.observe.health.findings import FULL, HALF, LOCKED, SILENT, STARVED, STUCK
from positronic.observe.health.registry import Reading, numbers, reads
from positronic.traits.ring_controller import SWING

__all__ = ["by_head", "collapsed", "evenness", "rms"]

Seen = Mapping[str, Tensor]
EDGE = 0.02
"""Within this share of its range a bounded value stands at its bound."""


def rms(module: Any, x: Tensor) -> Tensor:
    """Of everything that passes, ()."""
    return x.float().square().mean().sqrt()


def evenness(share: Tensor) -> Tensor:
    """(..., E) shares -> (...): entropy over ln E, 1 when all are equal; 1 where there is only one."""
    if share.shape[-1] < 2:
        return torch.ones_like(share[..., 0])
    share = share / share.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1) / math.log(share.shape[-1])


def collapsed(share: Tensor, top: int) -> bool:
    """Whether E experts of which `top` are chosen for a token are used as if there were fewer: (E,) shares."""
    if not share.isfinite().all():
        return False
    experts = len(share)
    used = int((share >= STARVED / experts).sum())
    effective = math.exp(float(evenness(share)) * math.log(experts))
    return used <= min(top, experts - 1) or effective < experts / 4


def by_head(module: Any, x: Tensor) -> Tensor:
    """(B, H, T, K) -> rms of each head, (H,)."""
    return x.float().square().mean((0, 2, 3)).sqrt()


@reads("attention", {"heads": by_head})
@reads("phase_attention", {"heads": by_head})
def _heads(module: Any, seen: Seen) -> Iterator[Reading]:
    size = seen["heads"]
    silent = bool((size < SILENT * size.max()).any())
    yield Reading("size of each head", numbers(size), "silent head" if silent else "")


@reads("phase_attention", {"current": rms})
@reads("engram", {"current": rms})
@reads("specialists", {"current": rms})
@reads("stations", {"current": rms})
def _current(module: Any, seen: Seen) -> Iterator[Reading]:
    yield Reading("current", numbers(seen["current"]))


def _units(swiglu: Any, x: Tensor) -> Tensor:
    """(B, T, F) -> median rms of a unit and the share of units far below it, (2,)."""
    size = x.float().square().mean((0, 1)).sqrt()
    return torch.stack([size.median(), (size < SILENT * size.median()).float().mean()])


@reads("swiglu", {"hidden": _units})
@reads("mlp", {"hidden": _units})
@reads("hyper_ffn", {"hidden": _units})
def _hidden(swiglu: Any, seen: Seen) -> Iterator[Reading]:
    median, silent = seen["hidden"].unbind()
    yield Reading("size of a unit", numbers(median))
    yield Reading("share of silent units", numbers(silent), "silent units" if silent > HALF else "")


def _turned(bank: Any, theta: Tensor) -> Tensor:
    """(B, T, N) -> mean |Z| and mean phase of each ring, (2, R)."""
    rings = bank.config.rings
    order = torch.hypot(*order_parameters(theta.float(), rings)).mean((0, 1))
    phase = torch.stack([ring.mean() for ring in theta.float().split(rings, -1)])
    return torch.stack([order, phase])


@reads("kuramoto", {"first_phase": _turned, "phase": _turned})
def _rings(bank: Any, seen: Seen) -> Iterator[Reading]:
    (before, started), (after, ended) = seen["first_phase"], seen["phase"]
    several = torch.tensor([size > 1 for size in bank.config.rings], device=after.device)
    locked = bool((after[several] > LOCKED).any())
    yield Reading("order of each ring, before", numbers(before))
    yield Reading("order of each ring, after", numbers(after), "locked ring" if locked else "")
    yield Reading("speed of each ring", numbers((ended - started) / (bank.config.steps * bank.config.dt)))


def _own_speed(bank: Any, omega: Tensor) -> Tensor:
    """(B, T, N) -> mean |omega| of each ring, (R,)."""
    return torch.stack([ring.abs().mean() for ring in omega.float().split(bank.config.rings, -1)])


@reads("kuramoto", {"frequency": _own_speed})
def _frequencies(bank: Any, seen: Seen) -> Iterator[Reading]:
    yield Reading("frequency of each ring", numbers(seen["frequency"]))


def _lookups(engram: Any, gate: Tensor) -> Tensor:
    """(B, T, slots) -> mean and share at either bound, (3, slots)."""
    gate = gate.float()
    ends = ((gate < EDGE).float().mean((0, 1)), (gate > 1 - EDGE).float().mean((0, 1)))
    return torch.stack([gate.mean((0, 1)), *ends])


@reads("engram", {"gate": _lookups})
def _lookup(engram: Any, seen: Seen) -> Iterator[Reading]:
    mean, shut, agape = seen["gate"]
    stuck = bool((torch.maximum(shut, agape) > STUCK).any())
    yield Reading("how far each lookup is let in", numbers(mean), "stuck lookup" if stuck else "")


def _used(organ: Any, choice: Tensor) -> Tensor:
    """(B, T, G, E) -> (G, E), G rings or stations."""
    return choice.float().mean((0, 1))


def _held(organ: Any, stores: Tensor) -> Tensor:
    """(B, 2, G, E, V) -> rms of each group's stores, (G,)."""
    return stores.float().square().mean((0, 1, 3, 4)).sqrt()


@reads("specialists", {"choice": _used, "memory": _held})
@reads("stations", {"choice": _used, "memory": _held})
def _stores(organ: Any, seen: Seen) -> Iterator[Reading]:
    share, held = seen["choice"], seen["memory"]
    idle = bool((share < STARVED / share.shape[-1]).any())
    yield Reading("evenness of use", numbers(evenness(share)), "idle specialist" if idle else "")
    yield Reading("fullness of stores", numbers(held), "full store" if bool((held > FULL).any()) else "")


def _surprise(controller: Any, error: Tensor) -> Tensor:
    """(B, T, R, 4) -> (R,)."""
    return error.float().square().mean((0, 1, 3)).sqrt()


def _wishes(controller: Any, modulation: Tensor) -> Tensor:
    """(B, T, R, 4) -> mean distance from neutral and share at its bound, (2, R)."""
    away = (modulation.float() - controller.neutral.float()).abs()
    return torch.stack([away.mean((0, 1, 3)), (away > (1 - EDGE) * SWING).float().mean((0, 1, 3))])


@reads("ring_controller", {"error": _surprise, "modulation": _wishes})
def _controller(controller: Any, seen: Seen) -> Iterator[Reading]:
    away, bound = seen["modulation"]
    yield Reading("surprise", numbers(seen["error"]))
    yield Reading("modulation", numbers(away), "saturated controller" if bool((bound > HALF).any()) else "")


@reads("hrm", {"added": rms})
def _refined(hrm: Any, seen: Seen) -> Iterator[Reading]:
    yield Reading("what reasoning added", numbers(seen["added"]))


def _routed(moe: Any, weights: Tensor) -> Tensor:
    """(B, T, E) -> (E,)."""
    return weights.float().mean((0, 1))


@reads("moe", {"weights": _routed})
def _router(moe: Any, seen: Seen) -> Iterator[Reading]:
    share = seen["weights"]
    fallen = collapsed(share, moe.config.top)
    starved = bool((share < STARVED / len(share)).any())
    yield Reading("share of each expert", numbers(share), "starved expert" if starved and not fallen else "")
    yield Reading("evenness of routing", numbers(evenness(share)), "collapsed router" if fallen else "")
