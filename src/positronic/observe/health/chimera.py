"""Readings of recurrent memories, of what is recalled, of experts with a bias, and of the loop."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from positronic.observe.health.findings import BRIEF, FAINT, FLOORED, HALF, STARVED, UNHEARD
from positronic.observe.health.organs import by_head, collapsed, evenness, rms
from positronic.observe.health.registry import Reading, numbers, reads

Seen = Mapping[str, Tensor]


def _mean_of_head(module: Any, x: Tensor) -> Tensor:
    """(B, T, H) -> (H,)."""
    return x.float().mean((0, 1))


def _size_of_head(module: Any, x: Tensor) -> Tensor:
    """(B, T, H, K) -> rms of each head, (H,)."""
    return by_head(module, x.transpose(1, 2))


def _half_lives(log_kept: Tensor) -> Tensor:
    """Tokens after which half is left, of logs of the share that a token leaves."""
    return math.log(2) / (-log_kept).clamp(min=1e-9)


def _brief(lives: Tensor) -> str:
    return "brief memory" if bool((lives < BRIEF).all()) else ""


@reads("gated_delta", {"decay": _mean_of_head, "strength": _mean_of_head})
@reads("span_knot", {"decay": _mean_of_head, "strength": _mean_of_head})
def _delta(module: Any, seen: Seen) -> Iterator[Reading]:
    lives, strength = _half_lives(seen["decay"]), seen["strength"]
    yield Reading("half-life of each head, tokens", numbers(lives), _brief(lives))
    yield Reading("strength of writes", numbers(strength), "faint writes" if bool((strength < FAINT).all()) else "")


@reads("mlstm", {"forget": _mean_of_head, "floored": _mean_of_head, "input": _mean_of_head})
def _mlstm(module: Any, seen: Seen) -> Iterator[Reading]:
    lives, floored = _half_lives(seen["forget"]), seen["floored"]
    yield Reading("half-life of each head, tokens", numbers(lives), _brief(lives))
    yield Reading("logit of the input gate", numbers(seen["input"]))
    said = "floored normaliser" if bool((floored > FLOORED).all()) else ""
    yield Reading("share of tokens at the normaliser's floor", numbers(floored), said)


@reads("gated_delta", {"heads": _size_of_head})
@reads("span_knot", {"heads": _size_of_head})
@reads("mlstm", {"heads": _size_of_head})
@reads("titans", {"heads": _size_of_head})
def _read(module: Any, seen: Seen) -> Iterator[Reading]:
    yield Reading("size of each head", numbers(seen["heads"]))


def _attended(titans: Any, weights: Tensor) -> Tensor:
    """(.., L + M + 1) -> shares of the window, the slots and what is recalled, (3,)."""
    slots = titans.config.slots
    of_each = weights.float().flatten(0, -2).mean(0)
    parts = of_each.split([len(of_each) - slots - 1, slots, 1])
    whole = of_each.sum()  # a block's empty places attend to nothing
    return torch.stack([part.sum() for part in parts]) / whole


@reads("titans", {"weights": _attended})
def _titans(titans: Any, seen: Seen) -> Iterator[Reading]:
    window, slots, recalled = seen["weights"].unbind()
    yield Reading("attention on the window", numbers(window))
    yield Reading("attention on the slots", numbers(slots))
    yield Reading("attention on what is recalled", numbers(recalled), "unheard memory" if recalled < UNHEARD else "")


def _grown(memory: Any, versions: Tensor) -> Tensor:
    """(B, V, H, 2, F, K) weights after every chunk -> norm of the last over that at the start, (H,)."""
    if not versions.shape[1]:
        return torch.ones(len(memory.start))
    last, start = (x.float().square().sum((-3, -2, -1)).sqrt() for x in (versions[:, -1], memory.start))
    return (last / start).mean(0)


def _gates(memory: Any, gates: Tensor) -> Tensor:
    """(B, T, H, 3) -> means of theta, eta and alpha, (3,)."""
    return gates.float().mean((0, 1, 2))


def _cut(memory: Any, share: Tensor) -> Tensor:
    """(B, n, H) -> share of chunks whose move was cut, (H,)."""
    return (share < 1).float().mean((0, 1)) if share.shape[1] else share.new_zeros(share.shape[2])


@reads("deep_memory", {"current": rms, "memory": _grown, "gates": _gates, "share": _cut})
def _memory(memory: Any, seen: Seen) -> Iterator[Reading]:
    theta, eta, alpha = seen["gates"].unbind()
    yield Reading("current", numbers(seen["current"]))
    yield Reading("norm over its start, each head", numbers(seen["memory"]))
    yield Reading("rate, momentum and forgetting of writes", numbers(torch.stack([theta, eta, alpha])))
    cut = seen["share"]
    said = "hemmed memory" if bool((cut > HALF).all()) else ""
    yield Reading("share of chunks that the trust region cut, each head", numbers(cut), said)


def _routed(experts: Any, weights: Tensor) -> Tensor:
    """(B, T, E) -> share of choices of each expert, (E,)."""
    return (weights > 0).float().mean((0, 1)) / experts.config.top


@reads("experts", {"weights": _routed})
def _experts(experts: Any, seen: Seen) -> Iterator[Reading]:
    share = seen["weights"]
    fallen = collapsed(share, experts.config.top)
    starved = bool((share < STARVED / len(share)).any())
    yield Reading("share of each expert", numbers(share), "unused expert" if starved and not fallen else "")
    yield Reading("evenness of routing", numbers(evenness(share)), "collapsed experts" if fallen else "")
    yield Reading("bias of each expert", numbers(experts.balance.bias))


def _changes(loop: Any, change: Tensor) -> Tensor:
    """(B, T, R) -> (R,)."""
    return change.float().mean((0, 1))


def _extremes(loop: Any, decay: Tensor) -> Tensor:
    return torch.stack([decay.min(), decay.max()])


@reads("loop", {"change": _changes})
def _iterations(loop: Any, seen: Seen) -> Iterator[Reading]:
    change = seen["change"]
    idle = len(change) > 1 and bool(change[-1] < loop.config.exit_below)
    yield Reading("relative change by each iteration", numbers(change), "idle iteration" if idle else "")


@reads("loop", {"decay": _extremes})
def _pull(loop: Any, seen: Seen) -> Iterator[Reading]:
    yield Reading("smallest and largest A", numbers(seen["decay"]))
