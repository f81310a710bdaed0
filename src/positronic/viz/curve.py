"""The loss curve of a run, drawn from its `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

from positronic.errors import DataError
from positronic.train import read_events

__all__ = ["draw_curve", "draw_curves"]

SERIES = ("#c2410c", "#1d4ed8", "#0f766e", "#7c3aed", "#a16207", "#be185d", "#475569", "#65a30d")
BITS = "bits per byte"
INK, TRAINING, HELD_OUT, GRID = "#1f2430", "#8fa3bf", "#c2410c", "#e6e8ec"


def draw_curve(metrics: Path, out: Path, title: str = "", levels: dict[str, float] | None = None) -> bool:
    """Bits per byte over tokens into the PNG or SVG `out`: every step, its running mean, and the held-out text.

    Steps that learn from pairs of answers have no bits per byte: then the loss, in nats, and that of held-out pairs.
    `levels` are horizontal lines by name (gzip, a unigram model). Returns False, and draws nothing, without matplotlib.
    """
    if find_spec("matplotlib") is None:
        return False
    events = read_events(metrics)
    steps = [e for e in events if e["event"] == "step"]
    if not steps:
        raise DataError(f"{metrics} holds no step yet; train at least one, then draw.")
    measured = [e for e in steps if e.get("bits_per_byte") is not None]
    measure, unit, steps = ("bits_per_byte", BITS, measured) if measured else ("loss", "loss, nats", steps)
    held_out = [e for e in events if e["event"] == "evaluation"]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tokens_at = {e["step"]: e["tokens"] / 1e6 for e in steps}
    x, y = [e["tokens"] / 1e6 for e in steps], [e[measure] for e in steps]
    figure, axes = pyplot.subplots(figsize=(8, 4.2), dpi=130, layout="constrained")
    axes.plot(x, y, color=TRAINING, linewidth=0.6, alpha=0.55)
    axes.plot(x, _running_mean(y), color=INK, linewidth=1.5, label="training (running mean)")
    points = [(tokens_at[e["step"]], e[measure]) for e in held_out if e["step"] in tokens_at]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color=HELD_OUT, markersize=3.5, linewidth=1.2, label="held out")
    for name, level in (levels or {}).items():
        axes.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(name, (x[-1], level), textcoords="offset points", xytext=(-4, 3), ha="right", fontsize=8)
    shown = sorted(y)[: max(1, int(len(y) * 0.98))] + [p[1] for p in points] + list((levels or {}).values())
    axes.set_ylim(min(shown) - 0.15, max(shown) + 0.15)
    _finish(axes, title, unit)
    figure.savefig(out)
    pyplot.close(figure)
    return True


def draw_curves(curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], out: Path, title: str = "") -> bool:
    """Held-out bits per byte of several models in one figure: by name, each seed's points (tokens, bits per byte)."""
    if find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.8), dpi=130, layout="constrained")
    for color, (name, seeds) in zip(cycle(SERIES), curves.items(), strict=False):
        for seed, points in enumerate(seeds):
            x, y = [tokens / 1e6 for tokens, _ in points], [value for _, value in points]
            axes.plot(x, y, "o-", color=color, markersize=3, linewidth=1.3, label=None if seed else name)
    shown = [value for seeds in curves.values() for points in seeds for _, value in points[1:]]
    if shown:
        axes.set_ylim(min(shown) - 0.05, max(shown) + 0.1)
    _finish(axes, title)
    figure.savefig(out)
    pyplot.close(figure)
    return True


def _finish(axes: Any, title: str, unit: str = BITS) -> None:
    """What all curves have in common."""
    axes.set_xlabel("million tokens")
    axes.set_ylabel(unit)
    shown = title.encode(errors="backslashreplace").decode()  # a folder may be named as no text is, or like a formula
    axes.set_title(shown, loc="left", fontsize=11, parse_math=False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def _running_mean(values: list[float], share: float = 0.02) -> list[float]:
    """Exponential mean with a memory of a share of the run, so that short and long runs look alike."""
    weight = 1 / max(1.0, len(values) * share)
    means = [values[0]]
    for value in values[1:]:
        means.append(means[-1] + weight * (value - means[-1]))
    return means
