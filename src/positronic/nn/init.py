"""The only ways to fill a parameter, and the one that fills a whole model reproducibly.

Every tensor draws from a Philox stream of its own, keyed by the seed and the tensor's path in the model: adding an
organ moves no other tensor's values, and a model is the same on every device. Modules fill their own direct tensors in
`reset_parameters`, a plain linear map by what it was given; `initialize` visits the modules, and leaves alone the
tensors a checkpoint is about to fill.
"""

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

__all__ = ["at_most", "begin", "constant_", "copy_", "initialize", "keeping", "normal_", "start_of", "starts", "zeros_"]

_DRAW = "_positronic_draw"
"""Attribute of a module that keeps what fills it."""


@dataclass(frozen=True)
class _Scope:
    seed: int
    paths: dict[int, str]
    """Path in the model by identity of the tensor."""
    loaded: Collection[str]
    scale: float


_scope: ContextVar[_Scope | None] = ContextVar("init_scope", default=None)
_kept: ContextVar[Collection[int]] = ContextVar("kept_tensors", default=())


def initialize(model: nn.Module, seed: int, loaded: Collection[str] = (), scale: float = 1.0) -> None:
    """Fill every parameter and table of `model` from `seed`, except the parameters named in `loaded`.

    scale: a factor of everything that is drawn.
    """
    with _within(_Scope(seed, {id(p): path for path, p in model.named_parameters()}, frozenset(loaded), scale)):
        for module in model.modules():
            begin(module)


def starts(module: nn.Module, draw: Callable[[Tensor], None]) -> None:
    """Give a linear map of PyTorch's own, which would begin otherwise, what fills its `weight` at the start."""
    vars(module)[_DRAW] = draw


def start_of(module: nn.Module) -> Callable[[Tensor], None]:
    """What `starts` gave it."""
    draw: Callable[[Tensor], None] = vars(module)[_DRAW]
    return draw


def begin(module: nn.Module) -> None:
    """Fill a module's own tensors as it starts out: by what `starts` gave it, or by its `reset_parameters`."""
    draw, reset = vars(module).get(_DRAW), getattr(module, "reset_parameters", None)
    if draw is not None:
        draw(module.weight)
        if isinstance(module.bias, Tensor):
            zeros_(module.bias)
    elif reset is not None:
        reset()


@contextmanager
def keeping(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Leave these tensors as they are, whatever is filled inside: they hold what was loaded."""
    token = _kept.set({id(tensor) for tensor in tensors})
    try:
        yield
    finally:
        _kept.reset(token)


@contextmanager
def at_most(n: int, beyond: Exception) -> Iterator[None]:
    """Raise `beyond` as soon as modules that are built inside have more than `n` parameters between them."""
    builder, made = threading.get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += parameter is not None and threading.get_ident() == builder
        if made > n:
            raise beyond

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def normal_(tensor: Tensor, std: float | Tensor) -> None:
    """Draw from N(0, std^2): from the tensor's own stream inside `initialize`, else from torch's generator.

    std: one, or a tensor of them that broadcasts.
    """
    if _skip(tensor):
        return
    scope = _scope.get()
    if scope is None:
        tensor.normal_().mul_(std)
        return
    key = hashlib.sha256(f"{scope.seed}:{scope.paths[id(tensor)]}".encode()).digest()[:16]
    stream = np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8")))
    drawn = torch.from_numpy(np.asarray(stream.standard_normal(tuple(tensor.shape), dtype=np.float32)))
    tensor.copy_(drawn * (scope.scale * torch.as_tensor(std, dtype=torch.float32, device="cpu")))


@torch.no_grad()
def constant_(tensor: Tensor, value: float) -> None:
    """Fill with one value."""
    if not _skip(tensor):
        tensor.fill_(value)


def zeros_(tensor: Tensor) -> None:
    """Fill with zeros: the no-op start of residual outputs that must be silent when new."""
    constant_(tensor, 0.0)


@torch.no_grad()
def copy_(tensor: Tensor, values: Tensor) -> None:
    """Fill with given values: tables that follow from the config, spread-out time constants."""
    if not _skip(tensor):
        tensor.copy_(values)


def _skip(tensor: Tensor) -> bool:
    scope = _scope.get()
    loaded = scope is not None and scope.paths.get(id(tensor)) in scope.loaded
    return tensor.is_meta or loaded or id(tensor) in _kept.get()


@contextmanager
def _within(scope: _Scope) -> Iterator[None]:
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
