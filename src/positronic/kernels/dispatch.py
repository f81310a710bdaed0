"""What runs here, and why. `POSITRONIC_KERNELS` asks for a form by its name:

reference     the definitions everywhere
fused         Triton's kernels where there are some and they can run; a line in the log says where one cannot, and why
fused-exact   the same with float32 trigonometry in place of the hardware's

Unset, each mechanism takes the fastest form that has been measured.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from positronic.errors import ConfigError

__all__ = ["asked_form", "reference_only", "without_autocast"]

FORMS = "reference", "fused", "fused-exact"


def asked_form() -> str | None:
    """The form that the user asked for, by name."""
    asked = os.environ.get("POSITRONIC_KERNELS") or None
    if asked is not None and asked not in FORMS:
        raise ConfigError(f"POSITRONIC_KERNELS is {asked!r}, which names no form. Use {', '.join(FORMS)}, or unset it.")
    return asked


def reference_only() -> bool:
    """Whether the user asked for the definitions in place of the fast forms."""
    return asked_form() == "reference"


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Inside, products keep the type of their factors; the meta device has no autocast to be switched off."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)
