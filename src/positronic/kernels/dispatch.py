"""What runs here, and why. `POSITRONIC_KERNELS=reference` forces the definitions everywhere."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["reference_only", "without_autocast"]


def reference_only() -> bool:
    """Whether the user asked for the definitions in place of the fast forms."""
    return os.environ.get("POSITRONIC_KERNELS") == "reference"


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Inside, products keep the type of their factors; the meta device has no autocast to be switched off."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)
