"""Rings of oscillators in random phases, under random fields."""

import torch

from positronic.kernels.kuramoto import RingField

RINGS = (2, 3, 5)
B, T, N, R = 2, 3, sum(RINGS), len(RINGS)
BANK = (4, 8, 16, 32, 64, 128, 256)
FIELDS = ["plain", "gain", "per token"]


def draw(*shape, seed=0, dtype=torch.float64, std=1.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * std).to(dtype)


def field_of(kind="plain", n_rings=R, rows=(B, T), dtype=torch.float64):
    """Random everywhere; "gain" adds kap per token, "per token" al and c too."""
    lead = rows if kind == "per token" else ()
    return RingField(
        coupling=draw(n_rings, n_rings, seed=1, dtype=dtype),
        lag=draw(*lead, n_rings, seed=2, dtype=dtype),
        centre=draw(*lead, n_rings, seed=3, dtype=dtype),
        phase=draw(seed=4, dtype=dtype),
        speed=draw(seed=5, dtype=dtype),
        gain=None if kind == "plain" else 1 + draw(*rows, n_rings, seed=6, dtype=dtype, std=0.3),
    )


def bank_of(rows=(B, T), n=N, driven=True, dtype=torch.float64, std=2.0):
    theta, omega, drive = (draw(*rows, n, seed=s, dtype=dtype) for s in (7, 8, 9))
    return std * theta, omega.tanh(), drive if driven else None


def worst_error(ours, theirs):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
