"""Readings of mixtures and their metric heads, of the ball that prunes keys and of the energy of values."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from positronic.mixers.radius import REMOVED
from positronic.observe.health.findings import HALF, SILENT, STARVED
from positronic.observe.health.organs import Seen, by_head, collapsed, evenness
from positronic.observe.health.registry import Reading, numbers, reads

__all__: list[str] = []


def _shares(module: Any, weights: Tensor) -> Tensor:
    """(B, T, M) -> mean weight of each, and the mean evenness of a token's weights last, (M + 1,)."""
    weights = weights.float()
    return torch.cat([weights.mean((0, 1)), evenness(weights).mean()[None]])


@reads("mixture", {"weights": _shares})
def _mixture(mixture: Any, seen: Seen) -> Iterator[Reading]:
    share, even = seen["weights"][:-1], seen["weights"][-1]
    fallen = collapsed(share, 1)
    unheard = bool((share < STARVED / len(share)).any())
    yield Reading("share of each head", numbers(share), "unheard head" if unheard and not fallen else "")
    yield Reading("evenness of the mixture", numbers(even), "collapsed mixture" if fallen else "")


@reads("hyper_ffn", {"weights": _shares})
def _branches(ffn: Any, seen: Seen) -> Iterator[Reading]:
    share = seen["weights"][:-1]
    yield Reading("share of each branch", numbers(share), "unheard head" if collapsed(share, 1) else "")


@reads("metric_mha", {"heads": by_head})
@reads("metric_mqa", {"heads": by_head})
def _heads(attention: Any, seen: Seen) -> Iterator[Reading]:
    size, score = seen["heads"], attention.score
    silent = bool((size < SILENT * size.max()).any())
    yield Reading("size of each head", numbers(size), "silent head" if silent else "")
    bound = bool((score.alpha >= score.config.most_alpha).any())
    yield Reading("sharpness", numbers(score.alpha), "sharpness at bound" if bound else "")
    if attention.sink is not None:
        yield Reading("sink", numbers(attention.sink))


def _lengths(attention: Any, k: Tensor) -> Tensor:
    """(B, G, T, K) -> tenth, middle and ninetieth percentile of their lengths, (3,)."""
    shares = torch.tensor([0.1, 0.5, 0.9], device=k.device)
    return k.float().norm(dim=-1).flatten().quantile(shares)


@reads("metric_mha", {"keys": _lengths})
@reads("metric_mqa", {"keys": _lengths})
def _keys(attention: Any, seen: Seen) -> Iterator[Reading]:
    yield Reading("length of keys", numbers(seen["keys"]))


def _broken(attention: Any, excess: Tensor) -> Tensor:
    """(B, H, n) -> share of triples that break the inequality, ()."""
    return (excess > 0).float().mean()


@reads("metric_mha", {"excess": _broken})
@reads("metric_mqa", {"excess": _broken})
def _triangles(attention: Any, seen: Seen) -> Iterator[Reading]:
    yield Reading("broken triangles", numbers(seen["excess"]))


def _outside(attention: Any, penalty: Tensor) -> Tensor:
    """(B, G, T) -> share of keys with a penalty, and of those that are gone with it, (2,)."""
    return torch.stack([(penalty < 0).float().mean(), (penalty < -REMOVED).float().mean()])


@reads("metric_mha", {"penalty": _outside})
@reads("metric_mqa", {"penalty": _outside})
def _ball(attention: Any, seen: Seen) -> Iterator[Reading]:
    pruned, gone = seen["penalty"]
    yield Reading("radius", numbers(attention.ball.radius.abs()))
    yield Reading("share of pruned keys", numbers(pruned), "narrow ball" if gone > HALF else "")


def _energy(attention: Any, energy: Tensor) -> Tensor:
    """(B, T, G) -> (G,)."""
    return energy.float().mean((0, 1))


@reads("metric_mha", {"energy": _energy})
@reads("metric_mqa", {"energy": _energy})
def _horizon(attention: Any, seen: Seen) -> Iterator[Reading]:
    yield Reading("energy", numbers(seen["energy"]))
