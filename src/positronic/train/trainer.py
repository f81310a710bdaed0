"""The one loop: batch -> stepper -> events, with validation, checkpoints and a clean stop.

    run(n); run(m) = run(m)         restore(snapshot()); run(m) = run(m)

bit for bit on one machine with equal threads: a step depends on weights, optimizer, data position, random streams and
the step's number, all of which are in the snapshot, and on nothing else.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from positronic.checkpoint import TrainingPart
from positronic.data import BatchSource
from positronic.errors import CheckpointError, TrainingError
from positronic.lm import LM
from positronic.train.checkpoints import Checkpoints
from positronic.train.device import Device
from positronic.train.interrupt import Interrupt
from positronic.train.nonfinite import first_unsound
from positronic.train.objectives import Counts, Objective
from positronic.train.observers import Observer
from positronic.train.parallel import ALONE, Ranks
from positronic.train.run_length import RunLength
from positronic.train.steppers import Report, Stepper
from positronic.train.train_state import Cadence, Counters, TrainState, Validate

__all__ = ["Trainer"]

ADVICE = "Try a lower --lr, a longer --set schedule.warmup=N, or --precision float32."
"""Against numbers that grow beyond all bounds."""


class _Launched(NamedTuple):
    """A step asked for."""

    wait: Callable[[], Report]
    counts: Counts
    scale: float


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
        length: RunLength,
        cadence: Cadence,
        device: Device,
        ranks: Ranks = ALONE,
        validate: Validate | None = None,
        checkpoints: Checkpoints | None = None,
        about: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.model, self.objective, self.stepper, self.data, self.observers = model, objective, stepper, data, observers
        self.length, self.cadence, self.device, self.ranks = length, cadence, device, ranks
        self.validate, self.checkpoints = validate, checkpoints
        self.about = dict(about or {})
        """What to keep beside the state in every checkpoint: configs, as JSON."""
        self.counters = Counters()
        self._clock = clock
        self._replica = ranks.replicate(model)
        self._position = data.position()
        self._launched: deque[_Launched] = deque()
        """Steps asked for and not yet waited for: at most one beside the newest."""
        self._evaluated = self._saved = -1
        """Steps of the last evaluation and of the last checkpoint."""

    def run(self, until_step: int | None = None) -> TrainState:
        """Go on to `until_step` (or the end of its length) and save. Ctrl-C ends the step: `interrupted`."""
        count = self.counters
        self._saved_at = self._settled_at = self._clock()
        self._began = self._settled_at - count.seconds
        cast(nn.Module, self.model).train()
        with Interrupt() as interrupt:
            if count.step == 0:
                self._evaluate()
            stopped = self._ends(interrupt)
            while not stopped and (until_step is None or count.step < until_step):
                self._launch()
                while len(self._launched) > self._lead(until_step, interrupt):
                    self._settle()
                if not self._launched:
                    self._pause()
                stopped = self._ends(interrupt)
            while self._launched:
                self._settle()
            if stopped == "time":
                self._evaluate()
            if stopped or count.step == until_step:
                self._save()
        return TrainState(count, stopped)

    def snapshot(self) -> TrainingPart:
        """All that `restore` needs beside the weights: plain tensors (the live ones) and JSON."""
        tensors, stepper = self.stepper.state()
        tensors = {f"stepper/{name}": value for name, value in tensors.items()}
        tensors["random/cpu"] = torch.get_rng_state()
        if self.device.torch_device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device.torch_device)
        meta = {
            "counters": asdict(self.counters),
            "data": self._position,
            "plan": self.length.state(),  # the name that checkpoints have for it
            "stepper": stepper,
        }
        return TrainingPart(tensors, {**self.about, **meta})

    def restore(self, part: TrainingPart) -> None:
        """Stand where `snapshot` was taken. The weights are the caller's to load."""
        meta = part.meta
        try:
            self.counters = Counters(**meta["counters"])
            self.length.restore(meta["plan"])
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
        broken = first_unsound({**cast(nn.Module, self.model).state_dict(), **self.stepper.state()[0]})
        if broken is not None:
            raise CheckpointError(
                f"In the newest checkpoint {broken} is not finite, and nothing can be learned from there. Delete that "
                f"checkpoint's folder to go on from the one before it."
            )
        self.data.seek(position)
        self._position = self.data.position()
        self._evaluated = self._saved = self.counters.step

    def _launch(self) -> None:
        """Ask for the next step."""
        batch = self.data.next(self.cadence.rows)
        counts = self.objective.counts(batch)
        mine, n = batch.rows(self.ranks.share(len(batch))), self.cadence.micro_rows
        micro_batches = [self.device.send(mine.rows(slice(i, i + n))) for i in range(0, len(mine), n)]
        scale = self.length.scale(self.counters.step + len(self._launched))
        wait = self.stepper(self._replica, self.objective, micro_batches, counts, scale)
        self._launched.append(_Launched(wait, counts, scale))
        self._position = self.data.position()

    def _lead(self, until_step: int | None, interrupt: Interrupt) -> int:
        """Steps that may stay asked for: none where something is due for which the run must stand still."""
        step, cadence = self.counters.step + len(self._launched), self.cadence
        still = (
            not self.device.runs_ahead
            or not self.length.fixed
            or interrupt.asked
            or step == until_step
            or self.length.ends(step, 0.0) is not None
            or _due(cadence.evaluate_every, step)
            or _due(cadence.checkpoint_every, step)
            or self._overdue()
        )
        return 0 if still else 1

    def _settle(self) -> None:
        """Wait for the oldest step asked for, count it, and tell the observers."""
        launched, count = self._launched.popleft(), self.counters
        try:
            report = launched.wait()
        except TrainingError as error:
            raise TrainingError(f"{error} {self._stands()} {ADVICE}") from error
        now = self._clock()
        count.step += 1
        count.tokens += launched.counts["tokens"]
        count.bytes += launched.counts["bytes"]
        count.skipped += report.fault is not None
        count.seconds = now - self._began
        self._report(report, launched, now - self._settled_at)
        self._settled_at = now
        self.length.observe(count.step, count.seconds, self.ranks.agreed)

    def _pause(self) -> None:
        """Where the run stands still: evaluate and save what is due."""
        count = self.counters
        last = self.length.ends(count.step, 0.0) is not None
        if last or _due(self.cadence.evaluate_every, count.step):
            self._evaluate()
        improved = count.best_step == count.step
        if last or _due(self.cadence.checkpoint_every, count.step) or self._overdue() or improved:
            self._save()
        self._settled_at = self._clock()
        count.seconds = self._settled_at - self._began

    def _overdue(self) -> bool:
        """Whether too much time has passed since the last checkpoint."""
        every_s = self.cadence.checkpoint_every_s
        return every_s > 0 and self._clock() - self._saved_at >= every_s

    def _ends(self, interrupt: Interrupt) -> str | None:
        stopped = self.length.ends(self.counters.step, self.counters.seconds)
        if stopped == "finished":
            return stopped
        late, asked = self.ranks.total([float(stopped == "time"), float(interrupt.asked)])
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
        # windows come in many shapes, and compiling each would take longer than computing it
        with torch.no_grad(), self.device.autocast(), torch.compiler.set_stance("force_eager"):
            measured = self.validate(self.model)
        module.train()
        found, best = measured["bits_per_byte"], count.best_bits_per_byte
        if math.isfinite(found) and (best is None or found < best):
            count.best_step, count.best_bits_per_byte = count.step, found
        self.length.reserve_s = self._clock() - began
        self._tell(lambda observer: observer.evaluation({"step": count.step} | _plain(measured)))

    def _save(self) -> None:
        count = self.counters
        if self.checkpoints is None or self._saved == count.step:
            return
        part = self.snapshot()
        broken = first_unsound({**cast(nn.Module, self.model).state_dict(), **part.tensors})
        if broken is not None:
            raise TrainingError(
                f"After step {count.step} {broken} is not finite, so no checkpoint was written. "
                f"{self._stands()} {ADVICE}"
            )
        self._saved, self._saved_at = count.step, self._clock()
        if self.ranks.first:
            folder = self.checkpoints.save(self.model, part, count.step, count.best_step)
            self._tell(lambda observer: observer.checkpoint({"step": count.step, "folder": str(folder)}))

    def _stands(self) -> str:
        """Words about what is kept."""
        return "Nothing of this run is kept." if self.checkpoints is None else self.checkpoints.newest()

    def _report(self, report: Report, launched: "_Launched", seconds: float) -> None:
        count, total = self.counters, self.length.total
        event: dict[str, Any] = {"step": count.step, "total": total}
        event |= _plain(self.objective.means(report.sums, launched.counts) | {"grad_norm": report.grad_norm})
        event |= {"rate": launched.scale, "tokens": count.tokens, "bytes": count.bytes, "skipped": count.skipped}
        event |= {
            "seconds": round(count.seconds, 3),
            "tokens_per_s": round(launched.counts["tokens"] / max(seconds, 1e-9), 1),
        }
        event["left_s"] = None if total is None else round((total - count.step) * count.seconds / count.step, 1)
        if report.fault is not None:
            event["fault"] = report.fault
        self._tell(lambda observer: observer.step(event))

    def _tell(self, say: Callable[[Observer], None]) -> None:
        if self.ranks.first:
            for observer in self.observers:
                say(observer)


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON: what is not finite becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
