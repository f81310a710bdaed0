"""How weights move: micro-batches in, one update out, and a report in sums.

    g = sum over micro-batches and ranks of grad(total)      g <- g * min(1, clip / |g|)      w <- optimizer(w, g)

where biases that choose experts, whose gradients are loads, have no part in |g| and are not scaled.

A step is asked for and waited for in two calls, so that a GPU gets the next step before the host has read the last. A
loss or a gradient that is not finite leaves weights and optimizer untouched, decided on the device; the step counts,
the report names the first place at fault, and the third in a row ends the run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from positronic.data import TokenBatch
from positronic.errors import TrainingError
from positronic.lm import LM
from positronic.train.device import Device
from positronic.train.nonfinite import first_nonfinite
from positronic.train.objectives import Counts, Objective
from positronic.train.optimizers import Optimizers
from positronic.train.parallel import ALONE, Ranks

__all__ = ["Backprop", "Report", "Stepper"]

PATIENCE = 3
"""Steps in a row that may fail before the run stops; the last of them stops it."""


@dataclass(frozen=True)
class Report:
    """What one step did, over the global batch."""

    sums: Mapping[str, float]
    """The objective's terms, summed."""
    grad_norm: float
    """Global norm before clipping."""
    fault: str | None = None
    """What was not finite, in which case nothing was changed; None: the weights moved."""


class Stepper(Protocol):
    """Moves the weights once a call."""

    def __call__(
        self, model: LM, objective: Objective, micro_batches: Sequence[TokenBatch], counts: Counts, scale: float
    ) -> Callable[[], Report]:
        """Ask for one step at `scale` times the peak rate. What is returned waits for it, and is called in order."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What it remembers between steps, when none is waited for: plain tensors and JSON."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None: ...


class Backprop:
    """Gradients by backpropagation, clipped by their global norm, handed to the optimizers."""

    def __init__(self, optimizers: Optimizers, device: Device, *, clip: float = 1.0, ranks: Ranks = ALONE):
        self.optimizers, self.device, self.clip, self.ranks = optimizers, device, clip, ranks
        self.faults_in_a_row = 0

    def __call__(
        self, model: LM, objective: Objective, micro_batches: Sequence[TokenBatch], counts: Counts, scale: float
    ) -> Callable[[], Report]:
        self.optimizers.zero_grad()
        total, sums = self._gradients(model, objective, micro_batches, counts)
        norm, norms = self._clip()
        together = self.ranks.add(torch.stack([total, *sums.values()]))
        sound = (together[0].isfinite() & norm.isfinite()).float()
        read = self.device.reading(torch.cat([sound[None], norm[None], together[1:], *norms.values()]))
        self.optimizers.step(scale, skip=1 - sound)

        def wait() -> Report:
            was_sound, grad_norm, *values = read()
            found = dict(zip(sums, values, strict=False))
            if was_sound:
                self.faults_in_a_row = 0
                return Report(found, grad_norm)
            broken = {path: math.isfinite(x) for path, x in zip(norms, values[len(sums) :], strict=True)}
            return Report(found, grad_norm, self._fault(model, objective, micro_batches, counts, broken))

        return wait

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.optimizers.state_tensors(), {"faults_in_a_row": self.faults_in_a_row}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.optimizers.load_state_tensors(tensors)
        self.faults_in_a_row = int(meta["faults_in_a_row"])

    def _gradients(
        self, model: LM, objective: Objective, micro_batches: Sequence[TokenBatch], counts: Counts
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of all micro-batches, added up; their total and their terms, this rank's."""
        total: Tensor | None = None
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(micro_batches):
            with self.ranks.accumulating(model, more=i + 1 < len(micro_batches)):
                with self.device.autocast():
                    loss = objective(model, batch, counts)
                self.ranks.summed(loss.total).backward()
            here = loss.total.detach()
            total = here if total is None else total + here
            for name, value in loss.terms.items():
                sums[name] = sums[name] + value if name in sums else value
        assert total is not None, "a step needs a micro-batch"
        return total, sums

    def _clip(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Scale the gradients down to the norm `clip` at most; the norm before that, and each parameter's (1,)."""
        moved = {path: p.grad for p, path in self.optimizers.clipped.items() if p.grad is not None}
        norms = torch.stack(torch._foreach_norm(list(moved.values())))
        norm = torch.linalg.vector_norm(norms)
        share = (self.clip / (norm + 1e-6)).clamp(max=1.0).nan_to_num()
        torch._foreach_mul_(list(moved.values()), share)
        return norm, dict(zip(moved, norms.split(1), strict=True))

    def _fault(
        self,
        model: LM,
        objective: Objective,
        micro_batches: Sequence[TokenBatch],
        counts: Counts,
        gradients: Mapping[str, bool],
    ) -> str:
        own = self.ranks.own(model)

        def repeat(batch: TokenBatch) -> Callable[[], Tensor]:
            def call() -> Tensor:
                with self.device.autocast():
                    return objective(cast(LM, own), batch, counts).total

            return call

        place = first_nonfinite(own, [repeat(batch) for batch in micro_batches], gradients)
        self.faults_in_a_row += 1
        if self.faults_in_a_row >= PATIENCE:
            raise TrainingError(f"{PATIENCE} steps in a row were not finite; the last broke first in {place}.")
        return place
