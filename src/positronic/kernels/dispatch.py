"""What runs here: of each mechanism the fastest form that can. `POSITRONIC_KERNELS` asks for another by its name:

reference   the definitions everywhere
torch       PyTorch's operations in place of Triton's kernels
"""

import logging
import os
import sysconfig
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from shutil import which
from typing import Any

import torch
from torch import Tensor

from positronic.errors import ConfigError

__all__ = ["fused_form", "fused_takes", "reference_only", "without_autocast"]

log = logging.getLogger(__name__)

FORMS = "reference", "torch"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs its kernels on the CPU, slowly; it asks once as well."""


def reference_only() -> bool:
    """Whether the user asked for the definitions in place of the fast forms."""
    return _asked() == "reference"


def fused_form(module: str, name: str) -> Callable[..., Any] | None:
    """A function of a module of Triton's kernels; None without CUDA or Triton, and in exported code, which lacks them.

    A package asks for it while it is imported: operators must exist before a compiler's graph names them.
    """
    if not INTERPRETED and torch.version.cuda is None:
        return None
    try:
        if not INTERPRETED and not _builds():
            raise ImportError("Triton needs a C compiler and Python's headers")
        form: Callable[..., Any] = getattr(import_module(module), name)
    except ImportError as error:
        level = logging.WARNING if torch.cuda.is_available() else logging.INFO
        log.log(level, "%s is missing, and PyTorch's operations run in its place: %s", module, error)
        return None
    return form


def fused_takes(x: Tensor) -> bool:
    """Whether Triton's kernels may run, and on tensors like this one."""
    return _asked() is None and x.dtype == torch.float32 and (x.is_cuda or INTERPRETED)


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Inside, products keep the type of their factors; the meta device has no autocast to be switched off."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def _builds() -> bool:
    """Whether there is what Triton builds launchers with, where it seeks them: a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or which("gcc") or which("clang")
    return compiler is not None and Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").exists()


def _asked() -> str | None:
    asked = os.environ.get("POSITRONIC_KERNELS") or None
    if asked is not None and asked not in FORMS:
        raise ConfigError(f"POSITRONIC_KERNELS is {asked!r}, which names no form. Use {', '.join(FORMS)}, or unset it.")
    return asked
