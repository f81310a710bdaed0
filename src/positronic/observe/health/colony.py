"""Readings of a colony of tips and its stations."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from positronic.kernels.colony.reference import KNEE
from positronic.observe.health.findings import CROWDED, UNREACHED
from positronic.observe.health.organs import Seen
from positronic.observe.health.registry import Reading, numbers, reads

__all__: list[str] = []


def _spread(colony: Any, positions: Tensor) -> Tensor:
    """(B, T, N, 3) -> rms distance of the tips from their middle, and the share beyond the knee, (2,)."""
    p = positions.float()
    away = (p - p.mean(-2, keepdim=True)).square().sum(-1).mean().sqrt()
    return torch.stack([away, (p.norm(dim=-1) > KNEE).float().mean()])


def _density(colony: Any, density: Tensor) -> Tensor:
    """(B, T, N) -> mean, ()."""
    return density.float().mean()


@reads("colony", {"first_positions": _spread, "positions": _spread, "density": _density})
def _growth(colony: Any, seen: Seen) -> Iterator[Reading]:
    (before, _), (after, beyond) = seen["first_positions"], seen["positions"]
    field = colony.field()
    yield Reading("tropism", numbers(field.tropism))
    yield Reading("persistence", numbers(field.persistence))
    yield Reading("speed", numbers(field.speed))
    yield Reading("width of each centre", numbers(field.width))
    yield Reading("spread of the tips, before", numbers(before))
    yield Reading("spread of the tips, after", numbers(after))
    yield Reading("tips beyond the knee", numbers(beyond), "crowded shell" if beyond > CROWDED else "")
    yield Reading("density", numbers(seen["density"]))


def _engaged(stations: Any, engagement: Tensor) -> Tensor:
    """(B, T, P) -> (P,)."""
    return engagement.float().mean((0, 1))


@reads("stations", {"engagement": _engaged})
def _engagement(stations: Any, seen: Seen) -> Iterator[Reading]:
    reached = seen["engagement"]
    yield Reading("engagement", numbers(reached), "unreached station" if bool((reached < UNREACHED).any()) else "")
