"""Colonies of random tips, and fields of random centres."""

import torch
from ring_example import draw
from torch import Tensor

from positronic.kernels.colony import ColonyField
from positronic.kernels.colony.reference import KNEE

B, T, N, F = 2, 3, 10, 5
STEPS, DT = 3, 0.25


def field_of(n_centres=F, dtype=torch.float64, **changes) -> ColonyField:
    field = ColonyField(
        centres=draw(n_centres, 3, seed=1, std=0.4),
        width=0.3 + draw(n_centres, seed=2).abs(),
        tropism=torch.tensor(-0.7, dtype=torch.float64),
        persistence=torch.tensor(0.8, dtype=torch.float64),
        speed=torch.tensor(0.5, dtype=torch.float64),
    )
    changes = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in changes.items()}
    return field._replace(**changes).to(dtype)


def tips_of(*rows, n=N, std=0.6, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Positions, some inside the knee and some beyond it, and growth vectors."""
    return draw(*rows, n, 3, seed=3, std=std, dtype=dtype), draw(*rows, n, 3, seed=4, dtype=dtype)


def edges(n=N) -> tuple[Tensor, Tensor]:
    """Tips at |p| = 0, exactly at the knee, on a centre, far outside, and two that are the same in all."""
    p, g = tips_of(1, n=n)
    places = torch.stack([torch.zeros(3), torch.tensor([0.0, KNEE, 0.0]), torch.tensor([0.0, 0.0, 30.0])]).double()
    p[0, :3], p[0, 3], p[0, 4] = places, field_of().centres[2], p[0, 5]
    g[0, 0], g[0, 4] = 0.0, g[0, 5]
    return p, g


def error(ours, theirs) -> float:
    return max(float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in zip(ours, theirs, strict=True))
