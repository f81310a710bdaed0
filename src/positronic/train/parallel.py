"""Several processes, one model: the only file that knows `torch.distributed`.

Every rank asks the data for the global batch and keeps its own rows; losses are sums over global counts, so gradients
are added over ranks (DDP's means are undone). `torchrun` starts the processes; without it a run is alone.
"""

import gc
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from positronic.errors import ConfigError, DeviceError
from positronic.lm import LM, LMOutput
from positronic.state import DecodeState, ForwardOptions

__all__ = ["ALONE", "Ranks", "launched"]


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them."""

    rank: int = 0
    world: int = 1
    replicas: "list[_Replica]" = field(default_factory=list, compare=False, repr=False)
    """What `replicate` made: given up before the processes part."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Which of the global batch's rows are this rank's."""
        if rows % self.world:
            raise ConfigError(
                f"A batch of {rows} rows cannot be shared equally by {self.world} processes; "
                f"choose --batch-tokens so that the rows are a multiple of {self.world}."
            )
        return slice(self.rank * rows // self.world, (self.rank + 1) * rows // self.world)

    def replicate(self, model: LM) -> LM:
        """The model as an LM whose gradients are summed over all ranks; the model itself when alone."""
        if self.world == 1:
            return model
        self.replicas.append(_Replica(model))
        return cast(LM, self.replicas[-1])

    def own(self, model: LM) -> nn.Module:
        """The module behind `replicate`."""
        return cast(nn.Module, model.model if isinstance(model, _Replica) else model)

    def summed(self, total: Tensor) -> Tensor:
        """What to go back from, so that gradients are sums over ranks where DDP takes means."""
        return total if self.world == 1 else total * self.world

    def accumulating(self, model: LM, more: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of one micro-batch: gradients wait for `more` before they travel."""
        return model.ddp.no_sync() if more and isinstance(model, _Replica) else nullcontext()

    def add(self, values: Tensor) -> Tensor:
        """Element-wise sums over all ranks, on the values' device; nobody waits."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def total(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over all ranks, between hosts: no GPU is waited for."""
        return list(values) if self.world == 1 else self.add(torch.tensor(values, dtype=torch.float64)).tolist()

    def agreed(self, value: float) -> float:
        """What the first rank says, for decisions that depend on a clock."""
        return self.total([value if self.first else 0.0])[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def launched(device: str = "auto") -> Iterator[Ranks]:
    """The ranks that `torchrun` started, joined for the block: NCCL between GPUs, one a process, else Gloo."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"Process {local} has no GPU of its own: this machine has {torch.cuda.device_count()}. "
                f"Start with --nproc-per-node {max(1, torch.cuda.device_count())}, or with --device cpu."
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    ranks = Ranks(dist.get_rank(), world)
    try:
        yield ranks
    finally:
        for replica in ranks.replicas:
            del replica.ddp  # DDP that outlives its process group aborts the process at exit, one time in five
        gc.collect()
        dist.destroy_process_group()


class _Replica:
    """An LM whose backward pass adds up gradients over ranks."""

    def __init__(self, model: LM):
        self.model = model
        self.config = model.config
        self.drafts, self.latents = model.drafts, model.latents
        with warnings.catch_warnings():  # torch 2.13 renames the first setting, torch 2.11 knows no other
            warnings.simplefilter("ignore", FutureWarning)
            self.ddp = DistributedDataParallel(
                cast(nn.Module, model), broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def parameters(self) -> Iterator[nn.Parameter]:
        return cast(nn.Module, self.model).parameters()

    def init_state(self, batch: int, capacity: int = 0) -> DecodeState:
        return self.model.init_state(batch, capacity)

    def __call__(
        self, tokens: Tensor, state: DecodeState | None = None, options: ForwardOptions | None = None
    ) -> LMOutput:
        return self.ddp(tokens, state, options)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden)
