"""What was asked for, beside what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.decoding.one_row import BEFORE

__all__ = ["Goal", "goals", "summary", "table"]

CONTROL = "tinygpt-15m"
BEFORE_ON_CPU = "positronic-15m", "mycel-10m", "moa-20m"
BEFORE_ON_CUDA = *BEFORE_ON_CPU, "positronic-144m"
OPERATIONS = {"positronic-tiny": 2125, "mycel-10m": 2538, "positronic-15m": 4333, "moa-20m": 5287}
"""Of a step at 074ff9c, as they were counted then; the control's were 762."""


@dataclass(frozen=True)
class Goal:
    """A number, the least that was asked of it, and what would be more than enough."""

    what: str
    measured: float
    floor: float
    stretch: float
    smaller_is_better: bool = False

    @property
    def reached(self) -> str:
        sign = -1 if self.smaller_is_better else 1
        if sign * self.measured >= sign * self.stretch:
            return "stretch"
        return "floor" if sign * self.measured >= sign * self.floor else "no"

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"reached": self.reached}


def goals(kind: str, dtypes: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """Of all that was measured on this kind of device, by dtype and part."""
    one = _on_cuda if kind == "cuda" else _on_cpu
    return [goal for dtype, parts in dtypes.items() for goal in (*one(dtype, parts), *_anywhere(dtype, parts))]


def _on_cuda(dtype: str, parts: Mapping[str, Any]) -> Iterator[Goal]:
    yield from _times(dtype, parts, (CONTROL,), "Llama, generate", 4, 8)
    yield from _times(dtype, parts, (CONTROL,), "Llama, static", 0.9, 1.2)
    yield from _times(dtype, parts, BEFORE_ON_CUDA, BEFORE, 12, 30)
    for name, engines in parts.get("kernels", {}).items():
        for engine, found in engines.items():
            if "busy" in found:
                what = f"{dtype} {name}: {engine}, share of the step in which the GPU works"
                yield Goal(what, found["busy"], 0.8, 0.95)
    yield from _batch(dtype, parts, "64", 30, 50)


def _on_cpu(dtype: str, parts: Mapping[str, Any]) -> Iterator[Goal]:
    yield from _times(dtype, parts, (CONTROL,), "Llama, bare loop", 1.0, 1.3)
    yield from _times(dtype, parts, BEFORE_ON_CPU, BEFORE, 2.5, 5)
    counted = parts.get("operations", {})
    if CONTROL in counted:
        yield Goal(f"{CONTROL}: operations a step", counted[CONTROL]["now"], 460, 300, smaller_is_better=True)
    for name, then in OPERATIONS.items():
        if name in counted:
            share = counted[name]["now"] / counted[name].get("before", then)
            yield Goal(f"{name}: operations a step, of {BEFORE}'s", share, 1 / 2, 1 / 3, smaller_is_better=True)
    yield from _batch(dtype, parts, "16", 8, 12)


def _anywhere(dtype: str, parts: Mapping[str, Any]) -> Iterator[Goal]:
    for name, found in parts.get("joining", {}).items():
        what = f"{dtype} {name}: leaving and joining, share of decoding"
        yield Goal(what, found["share"]["median"], 0.08, 0.03, smaller_is_better=True)
        yield Goal(f"{what}, by rounds", found["share_by_rounds"], 0.08, 0.03, smaller_is_better=True)
    for name, found in parts.get("prefix", {}).items():
        what = f"{dtype} {name}: first token after {found['prompt_tokens']:,} kept ones, of reading them"
        yield Goal(what, found["of_anew"]["kept"]["median"], 1 / 10, 1 / 30, smaller_is_better=True)


def _times(
    dtype: str, parts: Mapping[str, Any], names: tuple[str, ...], form: str, floor: float, stretch: float
) -> Iterator[Goal]:
    for name in names:
        for engine, times in parts.get("one_row", {}).get(name, {}).get("times", {}).items():
            if form in times:
                yield Goal(f"{dtype} {name}: {engine}, times {form}", times[form]["median"], floor, stretch)


def _batch(dtype: str, parts: Mapping[str, Any], rows: str, floor: float, stretch: float) -> Iterator[Goal]:
    for name, found in parts.get("batches", {}).items():
        if rows in found:
            times = found[rows]["times_one_row"]["median"]
            yield Goal(f"{dtype} {name}: {rows} rows, times one row", times, floor, stretch)


def table(found: Sequence[Goal]) -> str:
    """A line a goal."""
    if not found:
        return "No goal was set for what was measured."
    width = max(len(goal.what) for goal in found)
    lines = [f"{'':{width}}  {'measured':>8}  {'floor':>7}  {'stretch':>7}  reached"]
    for goal in found:
        sign = "<" if goal.smaller_is_better else ">"
        floor, stretch = f"{sign} {_short(goal.floor)}", f"{sign} {_short(goal.stretch)}"
        lines.append(f"{goal.what:{width}}  {_short(goal.measured):>8}  {floor:>7}  {stretch:>7}  {goal.reached}")
    return "\n".join(lines)


def summary(dtype: str, parts: Mapping[str, Any]) -> Iterator[str]:
    """A line for each preset of each part: tokens a second, counts, times."""
    for name, found in parts.get("one_row", {}).items():
        rates = [f"{form} {of['tokens_per_s']:,.1f}" for form, of in found["forms"].items()]
        lacking = [f"{form}: {reason}" for form, reason in found["missing"].items()]
        yield f"{dtype} {name}, tokens/s: {', '.join([*rates, *lacking])}"
    for name, found in parts.get("batches", {}).items():
        rates = [f"{of['tokens_per_s']:,.1f}" for of in found.values()]
        yield f"{dtype} {name}, tokens/s of {', '.join(found)} rows: {', '.join(rates)}"
    for name, found in parts.get("operations", {}).items():
        yield f"{dtype} {name}, operations a step: {_numbers(found)}"
    for name, engines in parts.get("kernels", {}).items():
        for engine, found in engines.items():
            yield f"{dtype} {name}, {engine}, a step: {_numbers(found)}"
    for name, found in parts.get("prefix", {}).items():
        times = [f"{what} {1000 * of['median_s']:,.1f}" for what, of in found["seconds"].items()]
        yield f"{dtype} {name}, ms to the first token: {', '.join(times)}"
    for name, of_prompts in parts.get("forms", {}).items():
        for prompt, found in of_prompts.items():
            rates = [f"{form} {of['tokens_per_s']:,.1f}" for form, of in found["forms"].items()]
            yield f"{dtype} {name}, {prompt} prompt, tokens/s: {', '.join(rates)}"
    if "llama_missing" in parts:
        yield parts["llama_missing"]
    for what, reason in parts.get("failed", {}).items():
        yield f"{dtype} {what} failed: {reason}"


def _numbers(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{what} {of if isinstance(of, str) else _short(of)}" for what, of in found.items())


def _short(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"
