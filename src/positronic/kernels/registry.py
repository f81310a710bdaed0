"""Which form of a kernel runs: each form says what it takes, and the best that takes a call computes it.

A kernel is a mechanism by its name. Its forms are of four kinds, tried in this order:

triton, cpp   compiled for one kind of device
torch         PyTorch's operations, arranged to be fast
reference     the definition, which takes everything

A form may be missing from a machine (no CUDA, no Triton, no compiler), which is found out once, when it is registered;
or refuse a call (another device or dtype, other shapes), which is asked at every call.

`POSITRONIC_KERNELS` picks, and is read at every call, by a compiler when it traces one. It holds a kind for all
kernels, KERNEL=KIND for one, or several of these with commas between: `torch,store=reference`. A kernel then runs the
best form of that kind or below that it has and that takes the call. `reference` is below `torch`; `torch` is below
`triton` and below `cpp`, and these are beside each other: who asks for one of them never gets the other.

Another distribution joins by an entry point of the group `positronic.kernels`: a module that registers its forms when
it is imported, or a function that does when it is called. It is loaded once, as soon as a kernel's package has been
imported: operators must exist before a compiler's graph names them. A distribution that is also imported by its own
name keeps its entry point in a module apart, as it may be asked to join while it is half imported.
"""

import logging
import os
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from shutil import which
from typing import Any

import torch
from torch import Tensor

from positronic.errors import ConfigError

__all__ = [
    "VARIABLE",
    "Form",
    "best_form",
    "devices",
    "forms_of",
    "kinds_asked",
    "operator",
    "register",
    "survey",
    "triton_form",
]

log = logging.getLogger(__name__)

GROUP, VARIABLE = "positronic.kernels", "POSITRONIC_KERNELS"
UP_TO = {
    "reference": ("reference",),
    "torch": ("torch", "reference"),
    "triton": ("triton", "torch", "reference"),
    "cpp": ("cpp", "torch", "reference"),
}
"""What may run where a kind is asked for."""
KINDS = "triton", "cpp", "torch", "reference"
HOMES = {
    "causal_attention": "positronic.kernels.attention",
    "masked_attention": "positronic.kernels.attention",
    "causal_metric_attention": "positronic.kernels.metric",
    "masked_metric_attention": "positronic.kernels.metric",
    "kuramoto": "positronic.kernels.kuramoto",
    "colony": "positronic.kernels.colony",
    "predictor": "positronic.kernels.predictor",
    "store": "positronic.kernels.store",
    "delta": "positronic.kernels.delta",
    "mlstm": "positronic.kernels.mlstm",
    "grouped_product": "positronic.kernels.grouped",
    "grouped_outer": "positronic.kernels.grouped",
    "deep_memory": "positronic.kernels.deep_memory",
    "ternary_product": "positronic.kernels.ternary",
    "cross_entropy": "positronic.kernels.cross_entropy",
}
"""The package in which each kernel is defined, and called by `best_form`."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs its kernels on the CPU, slowly; it asks once as well."""

_FORMS: dict[str, tuple["Form", ...]] = {}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to compute a kernel: same arguments in the same order, same shapes and meaning as its reference."""

    kind: str
    """reference, torch, triton or cpp."""
    run: Callable[..., Any] | None
    """None: it cannot run on this machine, and `missing` says why."""
    name: str = ""
    """Tells forms of one kind apart."""
    takes: str = "every call"
    """Which calls, in words."""
    missing: str | None = None
    devices: tuple[str, ...] = ()
    """Types of the devices that it runs on; none named: any."""
    dtypes: tuple[torch.dtype, ...] = ()
    """Types of the tensor it is asked about; none named: any."""
    refuses: Callable[..., str | None] | None = None
    """What else keeps it from a call: gets what `best_form` gets, and gives the reason, or None."""
    by: str = ""
    """The distribution that brings it; empty: this one."""

    def __post_init__(self) -> None:
        if self.kind not in UP_TO:
            raise ConfigError(f"A form of a kernel is of the kind {self.kind!r}; use one of {', '.join(UP_TO)}.")
        if (self.run is None) != (self.missing is not None):
            raise ConfigError(f"{self.label} needs either a function to run or the reason why it is missing.")

    @property
    def label(self) -> str:
        more = ", ".join(filter(None, (self.name, self.by and f"from {self.by}")))
        return f"{self.kind} ({more})" if more else self.kind

    @property
    def takes_all(self) -> bool:
        return not self.devices and not self.dtypes and self.refuses is None

    def refusal(self, x: Tensor, *more: Any) -> str | None:
        """Why it does not take a call of which x is the tensor that counts; None: it does."""
        if (self.devices and x.device.type not in self.devices) or (self.dtypes and x.dtype not in self.dtypes):
            return f"takes {self.takes}"
        return None if self.refuses is None else self.refuses(x, *more)


def operator(name: str, module: str) -> str:
    """What PyTorch calls an operator that the module defines. A process has one of a name, and exported code is a
    second copy of ours, with names of its own."""
    return f"{'positronic' if module.startswith('positronic.') else module.replace('.', '_')}::{name}"


def register(kernel: str, *forms: Form) -> None:
    """Forms of a kernel, in order of preference; of one kind, those of another distribution come first."""
    if kernel not in HOMES:
        raise ConfigError(f"There is no kernel {kernel!r} to register a form of; there are {', '.join(HOMES)}.")
    first, again = not _FORMS, {form.label for form in forms}
    known = [form for form in _FORMS.get(kernel, ()) if form.label not in again]
    _FORMS[kernel] = tuple(sorted([*known, *forms], key=lambda form: (KINDS.index(form.kind), form.by == "")))
    if first and __name__.startswith("positronic."):  # exported code is no place to join
        _join()


def best_form(kernel: str, x: Tensor, *more: Any) -> Callable[..., Any]:
    """What computes a call: the function of the first form that the user lets run, is here and takes it.

    x is the tensor whose device and dtype count; more is what the kernel's own package says of the call.
    """
    kinds = kinds_asked(kernel)
    for form in _FORMS[kernel]:
        if form.run is not None and form.kind in kinds and form.refusal(x, *more) is None:
            return form.run
    raise AssertionError(f"{kernel} has no definition")


def kinds_asked(kernel: str) -> tuple[str, ...]:
    """The kinds of form of a kernel that the user lets run."""
    asked = os.environ.get(VARIABLE)
    return _kinds_of(asked, kernel) if asked else KINDS


def forms_of(kernel: str) -> tuple[Form, ...]:
    """All forms of a kernel in the order in which they are tried."""
    import_module(HOMES[kernel])
    return _FORMS[kernel]


def survey() -> dict[str, dict[Form, str | None]]:
    """For each kernel all its forms, and why each does not run on this machine; None: it does, first of all."""
    return {kernel: _reasons(kernel) for kernel in HOMES}


def triton_form(
    module: str,
    function: str,
    *,
    takes: str,
    dtypes: tuple[torch.dtype, ...] = (),
    refuses: Callable[..., str | None] | None = None,
) -> Form:
    """A function of a module of Triton's kernels; missing without CUDA or Triton, and in exported code.

    A package asks for it while it is imported: operators must exist before a compiler's graph names them.
    """
    run, missing = None, None
    if not INTERPRETED and torch.version.cuda is None:
        missing = "this PyTorch is built without CUDA"
    else:
        try:
            if not INTERPRETED and not _builds():
                raise ImportError("Triton needs a C compiler and Python's headers")
            run = getattr(import_module(module), function)
        except ImportError as error:
            level = logging.WARNING if torch.cuda.is_available() else logging.INFO
            log.log(level, "%s is missing, and PyTorch's operations run in its place: %s", module, error)
            missing = str(error)
    devices = () if INTERPRETED else ("cuda",)
    return Form(kind="triton", run=run, takes=takes, missing=missing, devices=devices, dtypes=dtypes, refuses=refuses)


def _kinds_of(asked: str, kernel: str) -> tuple[str, ...]:
    """The same, of what stands in the variable."""
    wanted: dict[str, str] = {}
    for word in asked.split(","):
        name, named, kind = word.strip().rpartition("=")
        if kind not in UP_TO or (named and name not in HOMES):
            raise ConfigError(
                f"{VARIABLE} is {asked!r}, and {word!r} names no form. Use {', '.join(UP_TO)}, or KERNEL=one of these "
                f"with commas between, where KERNEL is {', '.join(HOMES)}; or unset it."
            )
        if name in wanted:
            raise ConfigError(f"{VARIABLE} is {asked!r}, which says twice what {name or 'all kernels'} shall run.")
        wanted[name] = kind
    kind = wanted.get(kernel, wanted.get("", ""))
    return UP_TO[kind] if kind else KINDS


def _reasons(kernel: str) -> dict[Form, str | None]:
    kinds, here = kinds_asked(kernel), devices()
    reasons: dict[Form, str | None] = {}
    ahead: list[Form] = []
    for form in forms_of(kernel):
        reason = form.missing
        if reason is None and form.devices and not any(device in form.devices for device in here):
            reason = f"takes {form.takes}, and this machine has {' and '.join(here)} alone"
        if reason is None and form.kind not in kinds:
            reason = f"{VARIABLE} is {os.environ[VARIABLE]!r}"
        if reason is None:
            reason = _behind(ahead)
            ahead.append(form)
        reasons[form] = reason
    return reasons


def _behind(ahead: list[Form]) -> str | None:
    """Why a form that could run does not, given those that come before it."""
    whole = next((form for form in ahead if form.takes_all), None)
    if whole is not None:
        return f"runs where it is asked for alone: {whole.label} takes every call"
    return "runs calls that others refuse: " + "; ".join(f"{f.label} takes {f.takes}" for f in ahead) if ahead else None


def devices() -> tuple[str, ...]:
    """Types of the devices of this machine."""
    fast = torch.accelerator.current_accelerator(check_available=True)
    return ("cpu",) if fast is None else ("cpu", fast.type)


def _builds() -> bool:
    """Whether there is what Triton builds launchers with, where it seeks them: a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or which("gcc") or which("clang")
    return compiler is not None and Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").exists()


def _join() -> None:
    """Load what other distributions bring; one that is broken is named, and the rest runs without it."""
    for point in entry_points(group=GROUP):
        try:
            found = point.load()
            if callable(found):
                found()
        except Exception as error:
            log.warning("The kernels of %s do not join, and others run in their place: %r", point.value, error)
