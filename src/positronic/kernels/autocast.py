"""Where rounding is part of an equation, no autocast may change it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["without_autocast"]


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Inside, products keep the type of their factors; the meta device has no autocast to be switched off."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)
