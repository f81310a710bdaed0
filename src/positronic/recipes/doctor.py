"""Is my loss normal? A run beside the reference curve of its recipe, and if not: what is off, with the number.

    slower, faster    x_w outside the band of the reference, above or below it
    factor k          S*(x_w) / S_w: the distance at which the reference has this loss, over the run's own
    pull              log |g| of the run less the reference's at the same loss, mean of the last quarter

A rate that is k times too large runs along the reference's curve k times as fast, so k says by how much. Labels that
belong to other tokens leave a gradient that is mostly noise: the loss falls to what the frequencies of tokens are
worth, and the gradient's norm is too small for the loss it comes with. Weights that do not move keep both as they are.

Source   ours; the curves are `reference`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from positronic.recipes.reference import OPTIMIZER, WIDTH, Reference, Trace, recipe_of, run_beside, shipped, trace
from positronic.train import read_events

__all__ = ["Cause", "Finding", "Verdict", "examine"]

Cause = Literal["nan", "data", "learning rate", "labels", "stuck"]

LEAST_WINDOWS = 3
LEAST_LOSS, LEAST_TEXT, LEAST_PULL = 0.02, 0.03, 0.15
"""Deviations that are normal at any spread of the seeds: shares of loss and of bytes a token; of a log norm."""
STILL = 0.25
"""A run that falls by less than this share of the reference's fall stands still."""
ASLEEP = 0.1
"""The same from its first window on: it never moved."""
RISEN = 0.1
"""Share by which a loss has risen above its own lowest when it runs away."""
BY_HEART = 0.25
"""Share by which held-out text costs more than what is trained on when that is known by heart."""
IDLE_AFTER, IDLE_FALL = 100, 0.01
"""Without a reference: steps after which a loss should have fallen by this share."""
LEARN = "Learn a curve of your own with runs/reference_curve.sh, or `positronic reference`"


@dataclass(frozen=True)
class Finding:
    """What is off."""

    cause: Cause
    words: str
    """What was found, what is normal, what to do."""
    numbers: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """What became of an examination."""

    verdict: Literal["normal", "off", "too early", "no reference"]
    words: str
    steps: int
    """That were looked at."""
    reference: str | None = None
    finding: Finding | None = None
    differences: tuple[str, ...] = ()
    """Settings of the run that are not the reference's."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(run: Path, references: Sequence[Reference] | None = None) -> Verdict:
    """Judge a run's folder, or its `metrics.jsonl`, by the reference of its recipe.

    references: what to choose from; None: those that come with the package. A single one is taken whatever the run's
    recipe is. Without one that fits, only what holds for every run is looked at: NaN, a loss that rises or never moves.
    """
    seen = trace(run)
    end = seen.ends[-1] if seen.ends else 0
    reference, differences, why = _choose(run, seen, references)
    name = None if reference is None else reference.name
    if (broken := _not_finite(run)) is not None:
        return Verdict("off", broken.words, end, name, broken, differences)
    if len(seen.ends) < LEAST_WINDOWS:
        return Verdict("too early", f"Too early to judge; come back after {WIDTH * LEAST_WINDOWS} steps.", end)
    if reference is None:
        found = _without(seen)
        words = why if found is None else f"{found.words} ({why})"
        return Verdict("off" if found else "no reference", words, end, None, found)
    beside = _Beside(seen, reference)
    found = beside.finding(run)
    words = beside.said() if found is None else found.words
    return Verdict("off" if found else "normal", words, beside.step, reference.name, found, differences)


def _choose(
    run: Path, seen: Trace, references: Sequence[Reference] | None
) -> tuple[Reference | None, tuple[str, ...], str]:
    """The reference of the run's recipe, settings of the optimizer that differ, and why there is none."""
    known = list(shipped() if references is None else references)
    config = run_beside(run)
    if config is None:
        if references is not None and len(known) == 1:
            return known[0], (), ""
        return None, (), "no run.json says what this run is; name its curve with --reference"
    recipe = recipe_of(config)
    apart = {reference.name: reference.differences(recipe) for reference in known}
    told = {name: _told(pairs) for name, pairs in apart.items()}
    if references is not None and len(known) == 1:
        return known[0], told[known[0].name], ""
    fits = [r for r in known if all(OPTIMIZER.match(setting) for setting in apart[r.name])]
    if fits and seen.ends:
        return min(fits, key=lambda r: abs(math.log(_text_ratio(seen, r)))), told[fits[0].name], ""
    if fits:
        return fits[0], told[fits[0].name], ""
    if not known:
        return None, (), f"no reference curve comes with this package. {LEARN}"
    near = min(known, key=lambda r: len(apart[r.name]))
    apart_by = "; ".join(told[near.name])
    return None, (), f"no reference has this recipe; the nearest is {near.name}, but {apart_by}. {LEARN}"


def _told(pairs: dict[str, tuple[Any, Any]]) -> tuple[str, ...]:
    return tuple(f"{setting} is {ours} and the reference's {theirs}" for setting, (theirs, ours) in pairs.items())


def _text_ratio(seen: Trace, reference: Reference) -> float:
    """Bytes a token, the run's over the reference's, as far as both go."""
    w = min(len(seen.ends), len(reference.ends)) - 1
    return max(seen.bytes_per_token[w], 1e-9) / reference.bytes_per_token.mean[w]


def _not_finite(run: Path) -> Finding | None:
    events = read_events(run / "metrics.jsonl" if run.is_dir() else run)
    faults = [e for e in events if e["event"] == "step" and (e["loss"] is None or "fault" in e)]
    if not faults:
        return None
    first = faults[0]
    where = first.get("fault", "the loss")
    words = (
        f"NaN: step {first['step']} was not finite in {where}, and {len(faults)} steps in all. Lower the learning "
        f"rate, or begin again from a checkpoint before step {first['step']}."
    )
    return Finding("nan", words, {"step": first["step"], "steps": len(faults)})


def _without(seen: Trace) -> Finding | None:
    """What can be told without a reference."""
    loss, end = np.array(seen.loss), seen.ends[-1]
    if (risen := _risen(loss, end)) is not None:
        return risen
    if end >= IDLE_AFTER and loss[0] - loss[-1] < IDLE_FALL * loss[0]:
        return _asleep(loss, end, None)
    return None


def _risen(loss: np.ndarray, end: int) -> Finding | None:
    low = float(loss.min())
    if loss[-1] < (1 + RISEN) * low:
        return None
    words = (
        f"learning rate: the loss has risen from {low:.3f} to {loss[-1]:.3f} by step {end}, it runs away. "
        f"Lower the rate, or warm up for longer."
    )
    return Finding("learning rate", words, {"lowest": low, "loss": float(loss[-1])})


def _asleep(loss: np.ndarray, end: int, normal: float | None) -> Finding:
    beside = "" if normal is None else f", where {normal:.3f} is normal"
    words = (
        f"stuck: the loss was {loss[0]:.3f} and is {loss[-1]:.3f} after {end} steps{beside}. No weight seems to move: "
        f"look whether the rate is 0 and parameters require gradients."
    )
    return Finding("stuck", words, {"first": float(loss[0]), "loss": float(loss[-1])})


class _Beside:
    """A run beside its reference, over the windows that both have."""

    def __init__(self, seen: Trace, reference: Reference):
        n = min(len(seen.ends), len(reference.ends))
        self.seen, self.reference, self.step = seen, reference, reference.ends[n - 1]
        self.loss, self.distance = np.array(seen.loss[:n]), np.array(seen.distance[:n])
        self.mean = np.array(reference.loss.mean[:n])
        self.edge = reference.loss.edge(reference.seeds, 0.0)[:n]
        self.edge = np.maximum(self.edge, LEAST_LOSS * self.mean)
        self.late = slice(-max(LEAST_WINDOWS, n // 4), None)

    def finding(self, run: Path) -> Finding | None:
        """What is off; None: nothing."""
        if (text := self._other_text()) is not None:
            return text
        deviation = (self.loss - self.mean) / self.edge
        outside = np.flatnonzero(np.abs(deviation) > 1)
        if len(outside) and deviation[outside[0]] < 0:
            return self._by_heart(run) or self._rate(outside[0], self._faster(outside))
        if self._pull() < -self._pull_edge():
            return self._labels()
        return self._slower(outside) if len(outside) else None

    def _slower(self, outside: np.ndarray) -> Finding:
        """Why the loss is higher than it should be."""
        if (risen := _risen(self.loss, self.step)) is not None:
            return risen
        if self._fall(slice(None)) < ASLEEP:
            return _asleep(self.loss, self.step, float(self.mean[-1]))
        factor, misfit = self._along()
        if misfit <= 1:
            return self._rate(outside[0], factor)
        if self._pull() < -LEAST_PULL:  # no edge: that something is off is known already
            return self._labels()
        return self._still(outside[0]) if self._fall(self.late) < STILL else self._rate(outside[0], factor)

    def said(self) -> str:
        """Where a normal run stands."""
        return (
            f"normal: the loss of steps up to {self.step} is {self.loss[-1]:.3f}, and {self._normal(-1)} of "
            f"{self.reference.seeds} seeds"
        )

    def _normal(self, w: int) -> str:
        return f"the reference's is {self.mean[w]:.3f} +- {self.edge[w]:.3f}"

    def _other_text(self) -> Finding | None:
        first, band = self.seen.first_loss, self.reference.first_loss
        if abs(first - band.mean[0]) > max(band.edge(self.reference.seeds, 0.0)[0], LEAST_LOSS * band.mean[0]):
            words = (
                f"data: the first step's loss is {first:.3f}, and the reference's {band.mean[0]:.3f}, before anything "
                f"is learned: another vocabulary ({math.exp(first):,.0f} entries or so), or other first weights."
            )
            return Finding("data", words, {"first_loss": first, "normal": band.mean[0]})
        ratio, w = _text_ratio(self.seen, self.reference), len(self.loss) - 1
        least = LEAST_TEXT * self.reference.bytes_per_token.mean[w]
        edge = self.reference.bytes_per_token.edge(self.reference.seeds, least)[w]
        ours, normal = self.seen.bytes_per_token[w], self.reference.bytes_per_token.mean[w]
        if abs(ours - normal) <= edge:
            return None
        words = (
            f"data: a token spells {ours:.2f} bytes, and {normal:.2f} +- {edge:.2f} in the reference. Text or "
            f"tokenizer are other ones; for a text of your own make a curve of its own with `positronic reference`."
        )
        return Finding("data", words, {"bytes_per_token": ours, "normal": normal, "ratio": ratio})

    def _by_heart(self, run: Path) -> Finding | None:
        """Faster than the reference because the same text comes again and again."""
        events = read_events(run / "metrics.jsonl" if run.is_dir() else run)
        measured = [e for e in events if e["event"] == "evaluation" and e["step"] > 0]
        if not measured:
            return None
        at, held_out = measured[-1]["step"], measured[-1]["bits_per_byte"]
        near = [e["bits_per_byte"] for e in events if e["event"] == "step" and at - 10 < e["step"] <= at]
        trained = sum(near) / max(1, len(near))
        if held_out is None or held_out < (1 + BY_HEART) * trained:
            return None
        words = (
            f"data: what is trained on costs {trained:.3f} bits/byte at step {at} and held-out text {held_out:.3f}: "
            f"learned by heart. Give more text, or look whether the same rows come again and again."
        )
        return Finding("data", words, {"trained": trained, "held_out": held_out})

    def _reached(self, loss: float) -> float:
        """The distance at which the reference has come down to this loss; its end where it never does."""
        falling = np.minimum.accumulate(np.array(self.reference.loss.mean))
        distance = np.array(self.reference.distance)
        return float(np.interp(-loss, -falling, distance))

    def _faster(self, outside: np.ndarray) -> float:
        """k of a run that is ahead: the largest of its first windows, since a rate too large soon stops paying."""
        ahead = [w for w in outside if self.loss[w] < self.mean[w]][:5]
        return max(self._reached(self.loss[w]) / self.distance[w] for w in ahead)

    def _along(self) -> tuple[float, float]:
        """k of a run that is behind, and how far off the reference's curve it is then, in band edges at worst."""
        distance, best = np.array(self.reference.distance), (1.0, math.inf)
        for k in np.geomspace(0.01, 1, 93):
            expected = np.interp(k * self.distance, (0.0, *distance), (self.seen.first_loss, *self.reference.loss.mean))
            misfit = float((np.abs(self.loss - expected) / self.edge).max())
            best = min(best, (float(k), misfit), key=lambda pair: pair[1])
        return best

    def _rate(self, first: int, factor: float) -> Finding:
        words = (
            f"learning rate: the loss of steps up to {self.reference.ends[first]} is {self.loss[first]:.3f}, and "
            f"{self._normal(first)}. It moves as if the rate were {factor:.2g} times the reference's."
        )
        return Finding("learning rate", words, {"factor": factor, "step": self.reference.ends[first]})

    def _pull(self) -> float:
        """Log of the gradient's norm less what goes with the same loss, lately."""
        falling = np.minimum.accumulate(np.array(self.reference.loss.mean))
        normal = np.interp(-self.loss, -falling, self.reference.log_grad_norm.mean)
        return float((np.array(self.seen.log_grad_norm[: len(self.loss)]) - normal)[self.late].mean())

    def _pull_edge(self) -> float:
        """Of a mean over windows, whose batches are not the same."""
        edges = self.reference.log_grad_norm.edge(self.reference.seeds, 0.0)[: len(self.loss)][self.late]
        return max(LEAST_PULL, float(edges.mean()) / math.sqrt(len(edges)))

    def _labels(self) -> Finding:
        share = math.exp(self._pull())
        words = (
            f"labels: the loss is {self.loss[-1]:.3f} at step {self.step}, and the gradient's norm {share:.2f} of what "
            f"goes with it. Targets seem to belong to other tokens: look how they are shifted."
        )
        return Finding("labels", words, {"share": share, "loss": float(self.loss[-1]), "normal": float(self.mean[-1])})

    def _fall(self, windows: slice) -> float:
        """How far the run fell, as a share of the reference's fall."""
        ours, theirs = self.loss[windows], self.mean[windows]
        return float((ours[0] - ours[-1]) / max(theirs[0] - theirs[-1], 1e-9))

    def _still(self, first: int) -> Finding:
        words = (
            f"stuck: the loss is {self.loss[-1]:.3f} at step {self.step}, where {self.mean[-1]:.3f} is normal, and has "
            f"hardly moved since step {self.reference.ends[max(0, first - 1)]}. Look what stopped the weights."
        )
        return Finding("stuck", words, {"loss": float(self.loss[-1]), "normal": float(self.mean[-1])})
