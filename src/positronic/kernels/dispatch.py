"""What runs here, and why. `POSITRONIC_KERNELS` asks for a form by its name:

reference   the definitions everywhere
fused       Triton's kernels where there are some and they can run; a line in the log says where one cannot, and why

Unset, each mechanism takes the fastest form that has been measured.
"""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import compiler

from positronic.errors import ConfigError

__all__ = ["asked_form", "fused_runs", "reference_only", "without_autocast"]

log = logging.getLogger(__name__)

FORMS = "reference", "fused"


def asked_form() -> str | None:
    """The form that the user asked for, by name."""
    asked = os.environ.get("POSITRONIC_KERNELS") or None
    if asked is not None and asked not in FORMS:
        raise ConfigError(f"POSITRONIC_KERNELS is {asked!r}, which names no form. Use {', '.join(FORMS)}, or unset it.")
    return asked


def reference_only() -> bool:
    """Whether the user asked for the definitions in place of the fast forms."""
    return asked_form() == "reference"


@compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def fused_runs(module: str, device: str, dtype: torch.dtype, unfit: str | None = None) -> bool:
    """Whether the Triton kernels of a module run for tensors like these; unfit is what the caller has against it.

    Asked while a graph is made, not in it. Once for each reason, a line in the log says why not.
    """
    return _runs(module, device, dtype, unfit)


@cache
def _runs(module: str, device: str, dtype: torch.dtype, unfit: str | None) -> bool:
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        unfit = f"the tensors are on {device}, not on CUDA"
    elif find_spec("triton") is None:
        unfit = "Triton is not installed"
    elif dtype != torch.float32:
        unfit = f"the tensors are {dtype}, not float32"
    if unfit is None:
        try:
            import_module(module)  # its operators must exist before a graph names them
            return True
        except ImportError as error:
            unfit = f"it cannot be imported ({error})"
    log.warning("%s cannot run, for %s: the plain form runs instead", module, unfit)
    return False


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Inside, products keep the type of their factors; the meta device has no autocast to be switched off."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)
