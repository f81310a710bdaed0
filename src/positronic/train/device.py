"""Where a run computes and how: device, precision, compilation, determinism. Asked for by name, refused in words."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from positronic.data import TokenBatch
from positronic.errors import ConfigError, DeviceError
from positronic.nn.stack import Straight

__all__ = ["Device", "compile_blocks", "deterministic", "pick_device", "recompute_blocks"]


WHOLE_BLOCKS = 12
"""Blocks, at most, that are compiled at once."""
MOST_PROGRAMS = 64
"""Of one block: for each kind of mixer, and for each number of rows that still go round a loop."""
INDUCTOR: dict[str, str | int | bool | Callable[..., Any]] = {"triton.coalesce_tiling_analysis": False}
"""The analysis fails on some blocks of torch 2.11 ("Expected a number but got Mul"), where all else compiles."""


@dataclass(frozen=True)
class Device:
    """A device and the precision of matrix products on it; weights, sums and losses are float32 everywhere."""

    torch_device: torch.device
    bfloat16: bool
    """Matrix products in bfloat16 under autocast."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which a forward call runs."""
        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16) if self.bfloat16 else nullcontext()

    @property
    def runs_ahead(self) -> bool:
        """Whether the host may ask for more work before the last is done."""
        return self.torch_device.type == "cuda"

    def send(self, batch: TokenBatch) -> TokenBatch:
        """The batch on the device. From pinned memory, so that the copy waits its turn there and not here."""
        if self.runs_ahead:
            parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
            pinned = {k: v.pin_memory() for k, v in parts.items() if isinstance(v, Tensor) and k != "row_bytes"}
            batch = replace(batch, **pinned)
        return batch.to(self.torch_device)

    def reading(self, values: Tensor) -> Callable[[], list[float]]:
        """Send values (n,) on their way to the host; the result waits for them, not for what is asked afterwards."""
        if not self.runs_ahead:
            return values.tolist
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(values.device))

        def read() -> list[float]:
            arrived.synchronize()
            return host.tolist()

        return read

    def describe(self) -> dict[str, Any]:
        """For the log and the checkpoint: a run continues bit for bit only where these are the same."""
        cuda = self.torch_device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.torch_device) if cuda else self.torch_device.type,
            "precision": "bfloat16" if self.bfloat16 else "float32",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }


def pick_device(name: str = "auto", precision: str = "auto") -> Device:
    """The device called `name` (auto, cpu, cuda, cuda:1, mps) with `precision` (auto, float32, bfloat16).

    auto takes CUDA, then MPS, then the CPU; bfloat16 on a GPU of either kind where it is native, else float32.
    """
    found = _device(name)
    if precision not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"--precision is {precision!r}; use auto, float32 or bfloat16.")
    native = _has_native_bfloat16(found)
    if precision == "bfloat16" and not native:
        raise DeviceError(
            f"--precision bfloat16 was asked for, but this {found.type} device has no bfloat16 arithmetic and would "
            f"emulate it, slower than float32. Use --precision float32."
        )
    return Device(found, bfloat16=precision == "bfloat16" or (precision == "auto" and found.type != "cpu" and native))


def _device(name: str) -> torch.device:
    present = ["cpu"]
    if torch.cuda.is_available():
        present += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        present.append("mps")
    if name == "auto":
        name = "cuda" if "cuda:0" in present else present[-1]
    if name == "cuda" and "cuda:0" in present:
        name = f"cuda:{torch.cuda.current_device()}"
    if name not in present:
        raise DeviceError(
            f"--device {name} was asked for, but this machine has {', '.join(present)}. Use one of these."
        )
    return torch.device(name)


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return _cpu_supports("avx512_bf16") or _cpu_supports("amx_bf16") or _cpu_supports("arm_bf16")
    return torch.backends.mps.is_macos_or_newer(14, 0)  # older ones refuse the type


def _cpu_supports(feature: str) -> bool:
    """Torch's own answer, whose name moved between versions."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return bool(capabilities().get(feature, False))
    names = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    ask = getattr(torch.cpu, names.get(feature, ""), None)
    return bool(ask()) if ask is not None else False


@contextmanager
def deterministic(device: Device) -> Iterator[None]:
    """Same bits on every run of the same machine: CUDA kernels without atomics. On the CPU nothing has to change."""
    if device.torch_device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def compile_blocks(model: nn.Module) -> None:
    """Compile the trunk's blocks in place, so that names of parameters stay: few at once, many one by one.

    Equal blocks share one program, which keeps compilation short; but each call of it costs the host half a
    millisecond, which small models, whose trunks are short, feel.
    """
    trunk = _trunk(model)
    straight = isinstance(getattr(model, "walk", Straight()), Straight)
    whole = straight and len(trunk) <= WHOLE_BLOCKS and not getattr(trunk, "recompute", False)
    for part in [trunk] if whole else trunk:
        part.compile(dynamic=False, options=INDUCTOR)
    if not straight:
        torch._dynamo.config.recompile_limit = MOST_PROGRAMS
        for block in trunk:
            _compile_ways(block)


def _compile_ways(block: Any) -> None:
    """What a block is called by besides `forward`, where a trunk is passed more than once."""
    block.enter, block.again = (
        torch.compile(way, dynamic=False, options=INDUCTOR) for way in (block.enter, block.again)
    )


def recompute_blocks(model: nn.Module) -> None:
    """Keep only the blocks' inputs in training and run each again on the way back."""
    _trunk(model).recompute = True  # type: ignore[assignment]


def _trunk(model: nn.Module) -> nn.ModuleList:
    """The blocks of a model, its attribute `trunk` by convention of all families."""
    trunk = getattr(model, "trunk", None)
    if not isinstance(trunk, nn.ModuleList):
        raise ConfigError(
            f"{type(model).__name__} has no `trunk` of blocks, so compile and recompute have nothing to work on. "
            f"Set both off, or give the family a Stack called trunk."
        )
    return trunk
