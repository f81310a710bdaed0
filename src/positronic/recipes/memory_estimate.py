"""What fits this machine: precision, tokens an update and rows at once for a model, and why.

    weights   16 P                       float32 weight, gradient and two moments of AdamW, P parameters
    row       saved(2 rows) - saved(1)   what a row keeps for its gradient, counted on a model without memory
    rows      min(update, (SHARE * free - weights) / row)

The count takes every tensor as float32 and knows no compiler, so a GPU needs less than it says. An update has as many
tokens as the device can read in reasonable time; what does not fit at once is accumulated, which changes no result.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from positronic.config import ModelConfig
from positronic.errors import DeviceError
from positronic.models import build
from positronic.train import pick_device

__all__ = ["MemoryEstimate", "estimate", "estimate_here", "free_bytes"]

BATCH_TOKENS = {"cuda": 16_384, "mps": 16_384, "cpu": 1024}
"""Of an update: a CPU core reads a thousand or two in a second, and 5,000 updates should end the same day."""
SHARE = 0.6
"""Of the free memory that training may take; the rest is for logits, the optimizer's scratch and everybody else."""
BYTES_PER_WEIGHT = 16
UNKNOWN_BYTES = 4 << 30
"""Taken as free where the system does not say."""


@dataclass(frozen=True)
class MemoryEstimate:
    """How a model is trained on a device, and the numbers behind it."""

    device: str
    precision: str
    batch_tokens: int
    rows_at_once: int
    weights_bytes: int
    row_bytes: int
    free_bytes: int
    seq_len: int

    @property
    def micro_rows(self) -> int | None:
        """For a run's config; None: the whole update at once, the default."""
        return None if self.rows_at_once * self.seq_len >= self.batch_tokens else self.rows_at_once

    def table(self) -> list[tuple[str, str, str]]:
        """(what, value, why) for people."""
        need = self.weights_bytes + self.rows_at_once * self.row_bytes
        whole = "all of it at once" if self.micro_rows is None else "the rest is accumulated, to the same result"
        return [
            ("system", f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"),
            ("device", self.device, _why_device(self.device)),
            ("precision", self.precision, _why_precision(self.device, self.precision)),
            ("tokens an update", f"{self.batch_tokens:,}", _WHY_TOKENS[self.device]),
            ("rows at once", f"{self.rows_at_once} of {self.seq_len} tokens", whole),
            ("memory", f"{_gb(need)} of {_gb(self.free_bytes)} free", self._arithmetic()),
        ]

    def _arithmetic(self) -> str:
        weights, row = _gb(self.weights_bytes), _gb(self.row_bytes)
        return f"weights {weights}, a row at most {row}; {SHARE:.0%} of what is free may be used"


def estimate(
    model: ModelConfig, device: str, precision: str, free: int, batch_tokens: int | None = None
) -> MemoryEstimate:
    """The arithmetic: what of `model` fits into `free` bytes of a device of this type (cpu, cuda, mps).

    batch_tokens: of an update; None: what suits the device, in whole rows.
    """
    seq_len = model.context
    one, two = (_saved_bytes(model, rows) for rows in (1, 2))
    weights = BYTES_PER_WEIGHT * _parameters(model)
    row, room = two - one, int(SHARE * free) - weights
    if room < row:
        raise DeviceError(
            f"This model needs {_gb(weights + row)} for one row of {seq_len} tokens, and {_gb(int(SHARE * free))} of "
            f"the {_gb(free)} free may be used. Choose a smaller one (SIZE=tiny, --size tiny), or a shorter --seq-len."
        )
    update = max(1, (batch_tokens or BATCH_TOKENS[device]) // seq_len)
    return MemoryEstimate(device, precision, update * seq_len, min(update, room // row), weights, row, free, seq_len)


def estimate_here(
    model: ModelConfig, device: str = "auto", precision: str = "auto", batch_tokens: int | None = None
) -> MemoryEstimate:
    """`estimate` for this machine, as it is now."""
    place = pick_device(device, precision)
    used = "bfloat16" if place.bfloat16 else "float32"
    return estimate(model, place.torch_device.type, used, free_bytes(place.torch_device), batch_tokens)


def free_bytes(device: torch.device) -> int:
    """Memory that nobody uses: of the GPU, or of the machine and the container that holds us."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    told = [value for value in (_available(), _container()) if value is not None]
    return min(told, default=UNKNOWN_BYTES)


def _available() -> int | None:
    """What Linux calls available; half of all there is elsewhere; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _container() -> int | None:
    """What a control group leaves us; None: there is no limit."""
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def _parameters(model: ModelConfig) -> int:
    return sum(p.numel() for p in _empty(model).parameters())


def _empty(model: ModelConfig) -> Any:
    return build(model, device="meta")


def _saved_bytes(model: ModelConfig, rows: int) -> int:
    """Bytes that a forward pass keeps for the gradient, parameters aside."""
    built, kept = _empty(model), {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, torch.nn.Parameter):
            kept[id(x)] = x  # held, so that no other tensor takes its place and is not counted
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        built(torch.zeros(rows, model.context, dtype=torch.long, device="meta"))
    return sum(x.numel() * x.element_size() for x in kept.values())


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _why_device(kind: str) -> str:
    return {
        "cuda": "CUDA is there",
        "mps": "no CUDA, but Apple's GPU; operations it lacks are refused by name",
        "cpu": "neither CUDA nor MPS",
    }[kind]


def _why_precision(kind: str, precision: str) -> str:
    if precision == "bfloat16":
        return "this GPU multiplies in it natively; weights and sums stay float32"
    return {
        "cuda": "this GPU has no native bfloat16",
        "mps": "bfloat16 needs macOS 14 or newer on this GPU",
        "cpu": "bfloat16 is chosen on GPUs alone; --precision bfloat16 asks for it",
    }[kind]


_WHY_TOKENS = {
    "cuda": "the recipe's; more would be fewer, larger steps",
    "mps": "the recipe's, as on CUDA",
    "cpu": "fewer than on a GPU, so that all steps end the same day",
}
