"""Tensors as the numbers of a page: rounded, so that a page stays small, and no further than anybody can see."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["angles", "digits", "memories"]


def digits(x: Tensor) -> list[Any]:
    """Nested lists of four significant digits."""
    return _each(x.float().tolist(), lambda value: float(f"{value:.4g}"))


def angles(x: Tensor) -> list[Any]:
    """Nested lists of radians to a thousandth, which is less than a pixel of any ring."""
    return _each(x.float().tolist(), lambda value: round(value, 3))


def memories(memory: Tensor | None, choice: Tensor | None) -> dict[str, Tensor | None]:
    """Test-time stores (M, 2, G, E, V) after each token and what was read of them (M, G, E), in numbers (M, G, E).

    held: the norm of what a store holds; written: of what this token changed; read: its share of what was read.
    """
    if memory is None:
        return {}
    before = torch.cat([torch.zeros_like(memory[:1]), memory[:-1]])
    return {
        "held": memory.square().sum((1, -1)).sqrt(),
        "written": (memory - before).square().sum((1, -1)).sqrt(),
        "read": choice,
    }


def _each(values: Any, change: Any) -> Any:
    return [_each(value, change) for value in values] if isinstance(values, list) else change(values)
