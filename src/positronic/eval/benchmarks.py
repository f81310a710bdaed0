"""Scores of benchmarks: accuracies and perplexities with their standard errors, of each part and of the whole.

    acc          share of items whose gold candidate has the highest ln p, or whose completion greedy decoding says
    acc_norm     the same with ln p divided by the characters of the candidate, acc_bytes by its UTF-8 bytes
    perplexity   exp of the mean of -ln p, over items
    stderr       s / sqrt(n), s the sample's standard deviation; of a perplexity that of its logarithm, times itself

Of equal candidates the first one counts; a pair with equal sentences is not won. A task of several parts has the mean
over its parts, whatever their sizes, and the standard error of that mean. These are lm-eval's definitions and names,
but for the error of a perplexity, which lm-eval finds by drawing items again, and for equal pairs, which it counts.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from positronic.eval.bits_per_byte import Encoder, Score
from positronic.eval.continuations import Likelihood, encode_pairs, likelihoods
from positronic.eval.tasks import COMPLETION, Form, Item, Task
from positronic.lm import LM
from positronic.probe import Probe

__all__ = ["Benchmark", "Mean", "benchmark", "bits_per_byte_stderr", "summary"]


class Mean(NamedTuple):
    """A measured value."""

    value: float
    stderr: float | None
    """None of a single item."""


@dataclass(frozen=True)
class Part:
    """What came of one part of a task."""

    n: int
    """Items."""
    metrics: Mapping[str, Mean]

    def to_json(self) -> dict[str, Any]:
        """n, each metric, and the standard error of each."""
        values = {name: mean.value for name, mean in self.metrics.items()}
        errors = {f"{name}_stderr": mean.stderr for name, mean in self.metrics.items()}
        return {"n": self.n, **values, **errors}


@dataclass(frozen=True)
class Benchmark:
    """What came of a task."""

    whole: Part
    parts: Mapping[str, Part]
    unstable: int
    """Borders between context and continuation at which a token may reach over."""

    def to_json(self) -> dict[str, Any]:
        """The whole's numbers, and those of the parts where there are several."""
        parts = {name: part.to_json() for name, part in self.parts.items()} if len(self.parts) > 1 else {}
        return self.whole.to_json() | {"unstable_borders": self.unstable} | ({"parts": parts} if parts else {})


def benchmark(
    model: LM,
    tokenizer: Encoder,
    task: Task,
    *,
    context: int | None = None,
    batch_tokens: int | None = None,
    probe: Probe | None = None,
) -> Benchmark:
    """Score every item of a task; the settings are those of `bits_per_byte`."""
    pairs = [pair for items in task.parts.values() for item in items for pair in task.form.candidates(item)]
    requests = encode_pairs(tokenizer, pairs)
    found = likelihoods(model, requests, context=context, batch_tokens=batch_tokens, probe=probe)
    return summary(task, found, sum(not request.stable for request in requests))


def summary(task: Task, found: Iterable[Likelihood], unstable: int = 0) -> Benchmark:
    """What the likelihoods of all candidates of all items, in order, come to."""
    rest = iter(found)
    marks = {
        name: [_marks(task.form, item, [next(rest) for _ in task.form.candidates(item)]) for item in items]
        for name, items in task.parts.items()
    }
    parts = {name: _part(task.form, rows) for name, rows in marks.items()}
    return Benchmark(_whole(list(parts.values())), parts, unstable)


def _marks(form: Form, item: Item, found: Sequence[Likelihood]) -> dict[str, float]:
    """What one item adds to each metric."""
    if form is COMPLETION:
        return {"acc": float(found[0].greedy), "perplexity": found[0].log_p}
    log_p = [one.log_p for one in found]
    lengths: dict[str, Sequence[float]] = {
        "acc": [1.0] * len(found),
        "acc_norm": [len(text) for text in item.texts],
        "acc_bytes": [len(text.encode()) for text in item.texts],
    }
    return {name: float(_first_best(log_p, lengths[name]) == item.gold) for name in form.metrics}


def _first_best(log_p: Sequence[float], lengths: Sequence[float]) -> int:
    scores = [value / length for value, length in zip(log_p, lengths, strict=True)]
    return scores.index(max(scores))


def _part(form: Form, rows: Sequence[Mapping[str, float]]) -> Part:
    metrics = {name: _mean([row[name] for row in rows]) for name in form.metrics}
    if "perplexity" in metrics:
        log, stderr = metrics["perplexity"]
        value = math.exp(-log)
        metrics["perplexity"] = Mean(value, None if stderr is None else value * stderr)
    return Part(len(rows), metrics)


def _mean(values: Sequence[float]) -> Mean:
    stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), stderr)


def _whole(parts: Sequence[Part]) -> Part:
    metrics = {}
    for name in parts[0].metrics:
        of_parts = [part.metrics[name] for part in parts]
        errors = [mean.stderr for mean in of_parts]
        known = [error for error in errors if error is not None]
        stderr = math.hypot(*known) / len(parts) if len(known) == len(parts) else None
        metrics[name] = Mean(statistics.fmean(mean.value for mean in of_parts), stderr)
    return Part(sum(part.n for part in parts), metrics)


def bits_per_byte_stderr(scores: Sequence[Score]) -> float | None:
    """Of the bits per byte of documents together, as drawn from many: that of a ratio of sums. None of one document."""
    if len(scores) < 2:
        return None
    whole = Score.total(scores)
    rate = whole.nats / whole.bytes
    squares = math.fsum((score.nats - rate * score.bytes) ** 2 for score in scores)
    return math.sqrt(squares * len(scores) / (len(scores) - 1)) / whole.bytes / math.log(2)
