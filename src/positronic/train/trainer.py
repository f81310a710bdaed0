"""The one loop: batch -> stepper -> events, with validation, checkpoints and a clean stop.

    run(n); run(m) = run(m)         restore(snapshot()); run(m) = run(m)

bit for bit on one machine with equal threads: a step depends on weights, optimizer, data position, random streams and
the step's number, all of which are in the snapshot, and on nothing else.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn

from positronic.checkpoint import TrainingPart
from positronic.data import BatchSource, TokenBatch
from positronic.errors import CheckpointError
from positronic.lm import LM
from positronic.train.checkpoints import Checkpoints
from positronic.train.device import Device
from positronic.train.interrupt import Interrupt
from positronic.train.objectives import Counts, Objective
from positronic.train.observers import Observer
from positronic.train.parallel import ALONE, Ranks
from positronic.train.plan import Plan
from positronic.train.steppers import Report, Stepper

__all__ = ["Cadence", "Counters", "TrainState", "Trainer", "Validate"]

Validate = Callable[[LM], Mapping[str, float]]
"""Measures a model on held-out text; `bits_per_byte` says which checkpoint is best."""


@dataclass
class Counters:
    """What has happened so far."""

    step: int = 0
    tokens: int = 0
    bytes: int = 0
    skipped: int = 0
    seconds: float = 0.0
    """Wall time in the loop, validation and checkpoints included."""
    best_step: int | None = None
    best_bits_per_byte: float = math.inf


@dataclass(frozen=True)
class Cadence:
    """How often what happens; 0 is never."""

    rows: int
    """Rows of a global batch."""
    micro_rows: int
    """Rows of one forward pass of one process."""
    evaluate_every: int = 0
    checkpoint_every: int = 0
    checkpoint_every_s: float = 0.0


@dataclass(frozen=True)
class TrainState:
    """Where a run stands."""

    counters: Counters
    stopped: str | None
    """finished; time; interrupted (the user asked); None: more steps follow."""


class Trainer:
    """Model, objective, stepper and data, stepped until told to stop; observers watch."""

    def __init__(
        self,
        model: LM,
        objective: Objective,
        stepper: Stepper,
        data: BatchSource,
        observers: Sequence[Observer] = (),
        *,
        plan: Plan,
        cadence: Cadence,
        device: Device,
        ranks: Ranks = ALONE,
        validate: Validate | None = None,
        checkpoints: Checkpoints | None = None,
        about: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.model, self.objective, self.stepper, self.data, self.observers = model, objective, stepper, data, observers
        self.plan, self.cadence, self.device, self.ranks = plan, cadence, device, ranks
        self.validate, self.checkpoints = validate, checkpoints
        self.about = dict(about or {})
        """What to keep beside the state in every checkpoint: configs, as JSON."""
        self.counters = Counters()
        self._clock = clock
        self._replica = ranks.replicate(model)
        self._position = data.position()
        self._ahead: tuple[list[TokenBatch], Counts, dict[str, Any]] | None = None
        self._evaluated = self._saved = -1
        """Steps of the last evaluation and of the last checkpoint."""

    def run(self, until_step: int | None = None) -> TrainState:
        """Go on to `until_step` (or the end of the plan). Ctrl-C ends the step, saves, and returns `interrupted`."""
        count = self.counters
        began = self._saved_at = self._clock() - count.seconds
        cast(nn.Module, self.model).train()
        stopped: str | None = None
        with Interrupt() as interrupt:
            if count.step == 0:
                self._evaluate()
            while not (stopped := self._ends(interrupt)) and (until_step is None or count.step < until_step):
                started = self._clock()
                report, tokens = self._step()
                now = self._clock()
                count.seconds = now - began
                self._report(report, tokens, now - started)
                self.plan.observe(count.step, count.seconds, self._agreed)
                last = self.plan.ends(count.step, 0.0) is not None
                if last or _due(self.cadence.evaluate_every, count.step):
                    self._evaluate()
                if last or self._checkpoint_due():
                    self._save()
                count.seconds = self._clock() - began
        if stopped == "time":
            self._evaluate()
        if stopped:
            self._save()
        return TrainState(count, stopped)

    def snapshot(self) -> TrainingPart:
        """All that `restore` needs beside the weights: plain tensors (the live ones) and JSON."""
        tensors, stepper = self.stepper.state()
        tensors = {f"stepper/{name}": value for name, value in tensors.items()}
        tensors["random/cpu"] = torch.get_rng_state()
        if self.device.torch_device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device.torch_device)
        counters = asdict(self.counters)
        if self.counters.best_step is None:
            counters["best_bits_per_byte"] = None
        meta = {"counters": counters, "data": self._position, "plan": self.plan.state(), "stepper": stepper}
        return TrainingPart(tensors, {**self.about, **meta})

    def restore(self, part: TrainingPart) -> None:
        """Stand where `snapshot` was taken. The weights are the caller's to load."""
        meta = part.meta
        try:
            counters = dict(meta["counters"])
            if counters["best_bits_per_byte"] is None:
                counters["best_bits_per_byte"] = math.inf
            self.counters = Counters(**counters)
            self.plan.restore(meta["plan"])
            prefix = "stepper/"
            tensors = {k.removeprefix(prefix): v for k, v in part.tensors.items() if k.startswith(prefix)}
            self.stepper.restore(tensors, meta["stepper"])
            torch.set_rng_state(part.tensors["random/cpu"])
            position = meta["data"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"The training state of this checkpoint lacks or garbles {error}. Resume from another checkpoint of "
                f"the run, or start a new one from its weights with --init."
            ) from error
        if self.device.torch_device.type == "cuda" and "random/cuda" in part.tensors:
            torch.cuda.set_rng_state(part.tensors["random/cuda"], self.device.torch_device)
        self.data.seek(position)
        self._position, self._ahead = self.data.position(), None
        self._evaluated = self._saved = self.counters.step

    def _step(self) -> tuple[Report, int]:
        count = self.counters
        if self._ahead is None:
            self._fetch()
        assert self._ahead is not None
        micro_batches, counts, self._position = self._ahead
        scale = self.plan.scale(count.step)
        report = self.stepper(self._replica, self.objective, micro_batches, counts, scale, self._fetch)
        count.step += 1
        count.tokens += counts["tokens"]
        count.bytes += counts["bytes"]
        count.skipped += report.fault is not None
        return report, counts["tokens"]

    def _fetch(self) -> None:
        """Have the next batch at hand on the device, remembering where the data then stands."""
        batch = self.data.next(self.cadence.rows)
        counts = self.objective.counts(batch)
        mine = batch.rows(self.ranks.share(len(batch)))
        n, device = self.cadence.micro_rows, self.device.torch_device
        micro_batches = [mine.rows(slice(i, i + n)).to(device) for i in range(0, len(mine), n)]
        self._ahead = micro_batches, counts, self.data.position()

    def _ends(self, interrupt: Interrupt) -> str | None:
        stopped = self.plan.ends(self.counters.step, self.counters.seconds)
        if stopped == "finished":
            return stopped
        late, asked = self._total([float(stopped == "time"), float(interrupt.asked)])
        return "interrupted" if asked else "time" if late else None

    def _evaluate(self) -> None:
        count = self.counters
        if self.validate is None or self._evaluated == count.step:
            return
        self._evaluated = count.step
        if not self.ranks.first:
            return
        began = self._clock()
        module = cast(nn.Module, self.model)
        module.eval()
        with torch.no_grad(), self.device.autocast():
            measured = self.validate(self.model)
        module.train()
        if measured["bits_per_byte"] < count.best_bits_per_byte:
            count.best_step, count.best_bits_per_byte = count.step, measured["bits_per_byte"]
        self.plan.reserve_s = self._clock() - began
        self._tell(lambda observer: observer.evaluation({"step": count.step, **measured}))

    def _checkpoint_due(self) -> bool:
        count = self.counters
        every_s = self.cadence.checkpoint_every_s
        late = every_s > 0 and self._clock() - self._saved_at >= every_s
        improved = count.best_step == count.step
        return _due(self.cadence.checkpoint_every, count.step) or late or improved

    def _save(self) -> None:
        count = self.counters
        if self.checkpoints is None or self._saved == count.step:
            return
        self._saved, self._saved_at = count.step, self._clock()
        if self.ranks.first:
            folder = self.checkpoints.save(self.model, self.snapshot(), count.step, count.best_step)
            self._tell(lambda observer: observer.checkpoint({"step": count.step, "folder": str(folder)}))

    def _report(self, report: Report, tokens: int, seconds: float) -> None:
        count, total = self.counters, self.plan.total
        event: dict[str, Any] = {"step": count.step, "total": total}
        means = self.objective.means(report.sums, report.counts)
        event |= {name: value if math.isfinite(value) else None for name, value in means.items()}
        event["grad_norm"] = report.grad_norm if math.isfinite(report.grad_norm) else None
        event |= {"rate": report.scale, "tokens": count.tokens, "bytes": count.bytes, "skipped": count.skipped}
        event |= {"seconds": round(count.seconds, 3), "tokens_per_s": round(tokens / max(seconds, 1e-9), 1)}
        event["left_s"] = None if total is None else round((total - count.step) * count.seconds / count.step, 1)
        if report.fault is not None:
            event["fault"] = report.fault
        self._tell(lambda observer: observer.step(event))

    def _tell(self, say: Callable[[Observer], None]) -> None:
        if self.ranks.first:
            for observer in self.observers:
                say(observer)

    def _total(self, values: Sequence[float]) -> list[float]:
        return self.ranks.total(values, self.device.torch_device)

    def _agreed(self, value: float) -> float:
        return self.ranks.agreed(value, self.device.torch_device)


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
