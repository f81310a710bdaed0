"""How weights move: micro-batches in, one update out, and a report in sums.

    g = sum over micro-batches and ranks of grad(total)      g <- g * min(1, clip / |g|)      w <- optimizer(w, g)

A loss or a gradient that is not finite leaves weights and optimizer untouched; the step counts, the report names the
first module at fault, and the third in a row ends the run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

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
    counts: Counts
    """What the sums are divided by."""
    grad_norm: float
    """Global norm before clipping."""
    scale: float
    """Share of the peak rate this step took."""
    fault: str | None = None
    """What was not finite, in which case nothing was changed; None: the weights moved."""


class Stepper(Protocol):
    """Moves the weights once."""

    def __call__(
        self,
        model: LM,
        objective: Objective,
        micro_batches: Sequence[TokenBatch],
        counts: Counts,
        scale: float,
        meanwhile: Callable[[], None],
    ) -> Report:
        """One step at `scale` times the peak rate; `meanwhile` is run on the host while the device works."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What it remembers between steps: plain tensors and JSON."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None: ...


class Backprop:
    """Gradients by backpropagation, clipped by their global norm, handed to the optimizers."""

    def __init__(self, optimizers: Optimizers, device: Device, *, clip: float = 1.0, ranks: Ranks = ALONE):
        self.optimizers, self.device, self.clip, self.ranks = optimizers, device, clip, ranks
        self.faults_in_a_row = 0

    def __call__(
        self,
        model: LM,
        objective: Objective,
        micro_batches: Sequence[TokenBatch],
        counts: Counts,
        scale: float,
        meanwhile: Callable[[], None],
    ) -> Report:
        self.optimizers.zero_grad()
        terms: list[Mapping[str, Tensor]] = []
        totals: list[Tensor] = []
        for i, batch in enumerate(micro_batches):
            with self.ranks.accumulating(model, more=i + 1 < len(micro_batches)):
                with self.device.autocast():
                    loss = objective(model, batch, counts)
                loss.total.backward()
            terms.append(loss.terms)
            totals.append(loss.total.detach())
        norm = self._clip()
        read = self._reading([norm, *totals, *(value for sums in terms for value in sums.values())])
        meanwhile()
        values = iter(read())
        grad_norm, total = next(values), math.fsum(next(values) for _ in totals)
        sums: dict[str, float] = {}
        for names in terms:
            for name in names:
                sums[name] = sums.get(name, 0.0) + next(values)
        *summed, total = self.ranks.total([*sums.values(), total], self.device.torch_device)
        sums = dict(zip(sums, summed, strict=True))
        if math.isfinite(grad_norm) and math.isfinite(total):
            self.optimizers.step(scale)
            self.faults_in_a_row = 0
            return Report(sums, counts, grad_norm, scale)
        fault = self._fault(model, objective, micro_batches, counts)
        return Report(sums, counts, grad_norm, scale, fault)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.optimizers.state_tensors(), {"faults_in_a_row": self.faults_in_a_row}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.optimizers.load_state_tensors(tensors)
        self.faults_in_a_row = int(meta["faults_in_a_row"])

    def _clip(self) -> Tensor:
        """Scale the gradients down to `clip` at most; their norm before that."""
        moved = [p for p in self.optimizers.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm([cast(Tensor, p.grad) for p in moved])
        nn.utils.clip_grads_with_norm_(moved, self.clip, norm.nan_to_num())  # a fault must stay where it arose
        return norm

    def _reading(self, values: Sequence[Tensor]) -> Callable[[], list[float]]:
        """Send scalars on their way to the host; the result waits for them alone, not for what is asked afterwards."""
        together = torch.stack([value.float() for value in values])
        return together.tolist

    def _fault(self, model: LM, objective: Objective, micro_batches: Sequence[TokenBatch], counts: Counts) -> str:
        own = self.ranks.own(model)

        def repeat(batch: TokenBatch) -> Callable[[], Tensor]:
            def call() -> Tensor:
                with self.device.autocast():
                    return objective(cast(LM, own), batch, counts).total

            return call

        place = first_nonfinite(own, [repeat(batch) for batch in micro_batches])
        self.faults_in_a_row += 1
        if self.faults_in_a_row >= PATIENCE:
            raise TrainingError(
                f"{PATIENCE} steps in a row were not finite; the last broke first in {place}. The newest checkpoint "
                f"is sound: try a lower --lr, a longer --set schedule.warmup=N, or --precision float32."
            )
        return place
