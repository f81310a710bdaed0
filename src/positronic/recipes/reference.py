"""What a recipe's loss looks like when nothing is wrong: a curve and its band, from the metrics of several seeds.

    x_w     mean of a quantity over the steps of window w: (0, 10], (10, 20], ..., from step 200 on 5 % wide
    band    mean over seeds -+ Z sd sqrt(1 + 1 / seeds),  sd pooled over the 7 windows around w

Three quantities are kept: the loss, the log of the gradient's norm, and the bytes a token has spelled so far; and of
each window the distance, the sum of all rates to its middle, which is how far the weights could have travelled. Runs
belong to one recipe if model, batches, optimizer and schedule are the same; the text shows in the bytes of a token.

Shipped curves stand beside this file in `references/`, one JSON each, written by `positronic reference`.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from positronic import __version__
from positronic.errors import DataError
from positronic.recipes.config import RunConfig
from positronic.recipes.run import read_run
from positronic.train import read_events

__all__ = ["Band", "Reference", "Trace", "learn_from", "recipe_of", "run_beside", "shipped", "trace"]

SHIPPED = Path(__file__).parent / "references"
FORMAT = 1
WIDTH, GROWTH = 10, 0.05
"""Steps of a window, at least, and the share of the steps before it that it is wide."""
POOLED = 3
"""Windows on each side whose spread is taken together."""
LEAST_SEEDS = 5
Z = 5.0
"""Standard deviations to the band's edge: of hundreds of windows, none of an honest run should lie outside."""
DECIDES = re.compile(
    r"(?!model\.(vocab_size|boundary_id|max_positions)$)model\.|train\.(steps|seq_len|batch_tokens|clip)$"
)
OPTIMIZER = re.compile(r"train\.(optimizer|schedule)\.")
"""Settings that a recipe consists of, beside the names of its texts."""


@dataclass(frozen=True)
class Band:
    """A quantity over the windows of a run."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    """Between seeds, pooled over neighbouring windows."""

    def edge(self, seeds: int, least: float) -> np.ndarray:
        """(windows,) how far from the mean is still normal, and `least` at least."""
        return np.maximum(Z * np.array(self.sd) * math.sqrt(1 + 1 / seeds), least)


@dataclass(frozen=True)
class Trace:
    """What one run did, window by window."""

    ends: tuple[int, ...]
    """Last step of each window."""
    distance: tuple[float, ...]
    loss: tuple[float, ...]
    log_grad_norm: tuple[float, ...]
    bytes_per_token: tuple[float, ...]
    first_loss: float
    """Of the first step, before any weight has moved."""


@dataclass(frozen=True)
class Reference:
    """A recipe's curve."""

    name: str
    recipe: dict[str, Any]
    """Setting -> value, as `recipe_of` gives it."""
    made: dict[str, Any]
    """Command, versions, seeds and text: how the curve came to be."""
    seeds: int
    ends: tuple[int, ...]
    distance: tuple[float, ...]
    loss: Band
    log_grad_norm: Band
    bytes_per_token: Band
    first_loss: Band

    @classmethod
    def learn(cls, name: str, recipe: dict[str, Any], traces: Sequence[Trace], **made: Any) -> "Reference":
        """The curve of runs of one recipe, as far as the shortest of them goes."""
        if len(traces) < LEAST_SEEDS:
            raise DataError(f"A band needs {LEAST_SEEDS} seeds or more, and {len(traces)} were given; train more.")
        n = min(len(trace.ends) for trace in traces)
        bands = {key: _band([getattr(t, key)[:n] for t in traces]) for key in _QUANTITIES}
        first = _band([[t.first_loss] for t in traces])
        made = {"version": __version__, **made}
        return cls(
            name, recipe, made, len(traces), traces[0].ends[:n], traces[0].distance[:n], **bands, first_loss=first
        )

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what `save` wrote."""
        try:
            data = json.loads(path.read_text("utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError(f"format {FORMAT} was expected")
            for key in ("ends", "distance"):
                data[key] = tuple(data[key])
            for key in (*_QUANTITIES, "first_loss"):
                data[key] = Band(*(tuple(data[key][part]) for part in ("mean", "sd")))
            return cls(**data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path} is no reference curve ({error}). Make one with `positronic reference`, or name a shipped one: "
                f"{', '.join(names()) or 'there is none'}."
            ) from error

    def save(self, path: Path) -> None:
        """One JSON object, numbers with five digits."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT, **_rounded(asdict(self))}) + "\n", "utf-8")

    def differences(self, recipe: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Setting -> (the reference's value, the run's) where they differ; one that only one of them knows is newer."""
        both = sorted(self.recipe.keys() & recipe.keys())
        return {key: (self.recipe[key], recipe[key]) for key in both if self.recipe[key] != recipe[key]}


_QUANTITIES = ("loss", "log_grad_norm", "bytes_per_token")


def names() -> list[str]:
    """Of the shipped references."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def shipped() -> list[Reference]:
    """All references that come with the package."""
    return [Reference.load(SHIPPED / f"{name}.json") for name in names()]


def recipe_of(run: RunConfig) -> dict[str, Any]:
    """The settings that decide what a run's loss looks like, by their path, as JSON values; texts without folders."""
    settings = {path: value for path, value in _leaves(run.to_json()) if DECIDES.match(path) or OPTIMIZER.match(path)}
    return settings | {"data": [Path(source).name for source in run.data]}


def trace(metrics: Path) -> Trace:
    """The whole windows of a `metrics.jsonl`, or of the run's folder that holds it."""
    path = metrics / "metrics.jsonl" if metrics.is_dir() else metrics
    if not path.exists():
        raise DataError(f"There is no {path}: nothing was trained there yet. Give the folder of a run.")
    steps = [event for event in read_events(path) if event["event"] == "step"]
    ends = tuple(_ends(len(steps)))
    rates = np.cumsum([event["rate"] for event in steps])
    spans = list(zip((0, *ends), ends, strict=False))
    return Trace(
        ends=ends,
        distance=tuple(float(rates[(a + b) // 2]) for a, b in spans),
        loss=tuple(_mean([e["loss"] for e in steps[a:b]]) for a, b in spans),
        log_grad_norm=tuple(_mean([_log(e["grad_norm"]) for e in steps[a:b]]) for a, b in spans),
        bytes_per_token=tuple(steps[b - 1]["bytes"] / max(1, steps[b - 1]["tokens"]) for b in ends),
        first_loss=_mean([e["loss"] for e in steps[:1]]),
    )


def run_beside(metrics: Path) -> RunConfig | None:
    """The config of the run that a folder or a `metrics.jsonl` belongs to; None where none lies beside it."""
    folder = metrics if metrics.is_dir() else metrics.parent
    return read_run(folder) if (folder / "run.json").exists() else None


def learn_from(runs: Sequence[Path], name: str, recipe: Path | None = None, note: str = "") -> Reference:
    """The curve of these folders or metrics files. recipe: a run.json; None: the one beside each of them."""
    configs = [run_beside(run) if recipe is None else _read_config(recipe) for run in runs]
    recipes = [config and recipe_of(config) for config in configs]
    for run, found in zip(runs, recipes, strict=True):
        if found is None:
            raise DataError(f"No run.json lies beside {run}; name the runs' own with --recipe.")
        if found != recipes[0]:
            raise DataError(
                f"{run} is a run of another recipe than {runs[0]}; give runs that differ in their seed alone."
            )
    traces = [trace(run) for run in runs]
    for run, found_trace in zip(runs, traces, strict=True):
        if traces.count(found_trace) > 1:
            raise DataError(f"{run} is given twice, or two runs have one seed; give each seed once.")
    made = {"runs": [run.name for run in runs], "note": note, "torch": torch.__version__}
    return Reference.learn(name, recipes[0] or {}, traces, **made)


def _read_config(path: Path) -> RunConfig:
    return read_run(path.parent if path.name == "run.json" else path)


def _ends(steps: int) -> Iterator[int]:
    end = 0
    while (end := end + max(WIDTH, int(GROWTH * end))) <= steps:
        yield end


def _mean(values: Sequence[float | None]) -> float:
    """NaN where a value is not there, because it was not finite."""
    return math.nan if None in values or not values else math.fsum(v for v in values if v is not None) / len(values)


def _log(value: float | None) -> float | None:
    return None if value is None else math.log(max(value, 1e-12))


def _band(rows: Sequence[Sequence[float]]) -> Band:
    values = np.array(rows)
    if not np.isfinite(values).all():
        raise DataError("A run among those given has a loss or gradient that is not finite; leave that run out.")
    variance = values.var(0, ddof=1)
    pooled = [variance[max(0, w - POOLED) : w + POOLED + 1].mean() for w in range(len(variance))]
    return Band(tuple(values.mean(0).tolist()), tuple(np.sqrt(pooled).tolist()))


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, data


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value
