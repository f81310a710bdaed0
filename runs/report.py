"""The page of a family's reference runs: what came out, in words and tables, from the JSON that the runs wrote."""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import continuations, one_line

from positronic.viz import draw_curves

__all__ = ["FAMILIES", "mean", "runs_in", "write_report"]

Found = dict[str, Any]
"""Result files by their stems."""


@dataclass(frozen=True)
class Family:
    title: str
    pairs: tuple[tuple[str, str], ...]
    """Models, the largest first, each with its control."""
    readings: tuple[str, ...]
    """Of health's readings, "organ: reading", those that are shown layer by layer."""
    claims: Callable[[Found], Iterator[tuple[str, str]]]
    """What the published model's card says, and what was seen here."""


def write_report(name: str, out: Path) -> None:
    """OUT/NAME.md and its plot."""
    family = FAMILIES[name]
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*.json"))}
    runs = runs_in(found)
    lines = [f"# {family.title} on blend-v1, beside its controls", "", *_headline(runs, family.pairs), ""]
    claims = list(family.claims(found))
    if claims:
        lines += ["## What the published card says, and what was seen here", "", "| the card | here |", "|---|---|"]
        lines += [*(f"| {said} | {seen} |" for said, seen in claims), ""]
    lines += ["## Bits per byte", ""]
    for ours, control in family.pairs:
        lines += _score_table(runs, ours, control)
    plot = f"![held-out bits per byte over tokens]({name}.png)"
    lines += [plot, "", *_positions_table(runs), "## Speed and memory", "", *_speed_table(runs), ""]
    for ours, _ in family.pairs:
        inside = found.get(f"{ours}-inside")
        if inside is not None:
            lines += [*_off_table(f"{ours}: each organ switched off", inside["ablation"])]
            lines += [*_layers_table(inside), *_depths_table(inside)]
            lines += [*_gates_table(inside), *_health_table(inside, family.readings)]
            lines += _samples(inside)
        drafted = [run["drafts"] for run in found.values() if run.get("drafting") == ours]
        lines += _drafts_table(ours, drafted) if drafted else []
    for ours, _ in family.pairs:
        tuned, said = found.get(f"{ours}-tuning"), found.get(f"{ours}-chat")
        if tuned is not None and said is not None:
            lines += _tuning(ours, tuned["tuning"], said["answers"])
    lines += ["## Commands", "", *(_command(run) for run in found.values() if "command" in run)]
    lines += [f"- this page: `python runs/reference_runs.py report {name} --out docs/results/{name}`", ""]
    (out / f"{name}.md").write_text("\n".join(lines), "utf-8")
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    whole = [run for run in runs.values() if not run.get("excerpt")]
    for run in whole or runs.values():
        curves.setdefault(run["model"], []).append(_curve(run["training"]))
    draw_curves(curves, out / f"{name}.png")


def _of_positronic(found: Found) -> Iterator[tuple[str, str]]:
    inside = found.get("positronic-144m-inside")
    if inside is None:
        return
    opened = _gate_rows(inside)["kuramoto gate"]
    first, *deeper = (opened[block] for block in sorted(opened))
    yield (
        "the oscillators' gates climb from 0.31 in layer 0 to 0.99 in deep layers",
        f"{first:+.2f} in layer 0, {min(deeper):+.2f} to {max(deeper):+.2f} behind it",
    )
    change = {organ: row["max_change"] for organ, row in inside["ablation"]["organs"].items()}
    yield (
        "largest change of a logit when switched off, on one prompt: oscillators 31.3, MoE 12.7, controllers 8.1, "
        "HRM 3.2, fractal seed 0.63, interstitial rings 0.12, specialists 0.06",
        f"on {inside['ablation']['tokens']:,} tokens of the valid texts: {change['kuramoto']:.1f}, "
        f"{change['moe']:.1f}, {change['ring_controller']:.1f}, {change['hrm']:.1f}, {change['fractal_phase']:.2f}, "
        f"phase attention {change['phase_attention']:.2f} and engram {change['engram']:.1f}, "
        f"{change['specialists']:.2f}",
    )
    specialists = [x for name, gates in inside["gates"].items() if "injections.2" in name for x in gates]
    yield ("specialists' gates hardly open: -0.10 to +0.17", f"{min(specialists):+.2f} to {max(specialists):+.2f}")
    yield from _same_text(found, "positronic-144m")


def _of_mycel(found: Found) -> Iterator[tuple[str, str]]:
    inside = found.get("mycel-79m-inside")
    if inside is None:
        return
    tropism = [line["values"][0] for line in inside["health"] if line["reading"] == "tropism"]
    negative = sum(x < 0 for x in tropism)
    yield (
        "tropism becomes strongly negative across layers",
        f"negative in {negative} of {len(tropism)} layers: {min(tropism):+.2f} to {max(tropism):+.2f}",
    )
    yield from _same_text(found, "mycel-79m")


def _of_metric(found: Found) -> Iterator[tuple[str, str]]:
    ours, twin = (_seeds(runs_in(found), name) for name in ("moa-metric-150m", "moa-dot-150m"))
    if ours and twin:
        yield (
            "loss is competitive with dot-product baselines of the same compute",
            f"{_blend(ours[0]):.4f} bits per byte beside {_blend(twin[0]):.4f} of the same block with dot products",
        )


def _of_chimera(found: Found) -> Iterator[tuple[str, str]]:
    for name in ("chimera-35m", "chimera-tiny"):
        depths = found.get(f"{name}-inside", {}).get("depths")
        if depths:
            best = min((depth for depth in depths if depth != "auto"), key=lambda depth: depths[depth])
            yield (
                "loops by mode: 1 fast, 2 balanced, 4 reasoning",
                f"{name} is best at {best}: " + ", ".join(f"{bits:.4f} at {depth}" for depth, bits in depths.items()),
            )


def _same_text(found: Found, name: str) -> Iterator[tuple[str, str]]:
    drafted = [run["drafts"] for run in found.values() if run.get("drafting") == name]
    for drafts in drafted:
        yield (
            "self-speculation gives the greedy text to the bit, only faster",
            f"the same text in {drafts['same_text']} of {drafts['texts']}, {drafts['gain']:.2f} times as fast on "
            f"{drafts['device']}",
        )


def _command(run: dict[str, Any]) -> str:
    at = f" at {run['commit']}" if run.get("commit") else ""
    return f"- `{run['command']}`{at}"


def runs_in(found: Found) -> Found:
    """Those of the files that runs of `train` wrote."""
    return {
        stem: run
        for stem, run in found.items()
        if isinstance(run, dict) and {"model", "training", "scores"} <= run.keys()
    }


def _curve(training: dict[str, Any]) -> list[tuple[float, float]]:
    return [(step * training["batch_tokens"], value) for step, value in training["held_out"]]


def _seeds(runs: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [run for run in runs.values() if run["model"] == name]


def _several(seeds: list[Any]) -> str:
    return "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"


def mean(values: list[float]) -> str:
    """The mean, and the half width between the largest and the smallest where there are several."""
    if not values:
        return "-"
    spread = f" ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _blend(run: dict[str, Any]) -> float:
    return run["scores"]["blend"]["bits_per_byte"]


def _headline(runs: dict[str, Any], pairs: tuple[tuple[str, str], ...]) -> list[str]:
    lines = []
    for ours, control in pairs:
        mine, theirs = [_blend(r) for r in _seeds(runs, ours)], [_blend(r) for r in _seeds(runs, control)]
        if mine and theirs:
            a, b = statistics.mean(mine), statistics.mean(theirs)
            verdict = "better" if a < b else "worse"
            lines.append(
                f"**{ours} ({_several(mine)}) costs {a:.4f} bits per byte on the blend's valid texts, its control "
                f"{control} ({_several(theirs)}) {b:.4f}: {abs(a / b - 1):.1%} {verdict}.**"
            )
    return lines


def _score_table(runs: dict[str, Any], ours: str, control: str) -> list[str]:
    names = [name for name in (ours, control) if _seeds(runs, name)]
    if not names:
        return []
    first = _seeds(runs, names[0])[0]
    training = first["training"]
    lines = [
        f"{names[0]}: {first['parameters']:,} parameters, {training['tokens'] / 1e6:.0f} M tokens, "
        f"{training['steps']:,} steps of {training['batch_tokens']:,}, {training['optimizer']['kind']} at "
        f"{training['optimizer']['lr']:g}; the control has the same rows in the same order and the same schedule."
        + (f" Scores are of the first {first['excerpt']:,} bytes of each text." if first.get("excerpt") else ""),
        "",
        "| text | " + " | ".join(f"{name} ({_several(_seeds(runs, name))})" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for text in first["scores"]:
        cells = [mean([run["scores"][text]["bits_per_byte"] for run in _seeds(runs, name)]) for name in names]
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return [*lines, "", "± is half the distance between the best and the worst seed.", ""]


def _speed_table(runs: dict[str, Any]) -> list[str]:
    lines = [
        "| run | tokens/s (median step) | TFLOP/s | share of peak | peak memory | read with |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        training, rate = run["training"], run["training"]["speed"]
        mfu = f"{rate['mfu']:.1%}" if rate["mfu"] else "-"
        memory = f"{training['peak_memory_gb']:.1f} GB" if training["peak_memory_gb"] else "-"
        lines.append(
            f"| {name} | {rate['tokens_per_s']:,.0f} | {rate['tflops']:.0f} | {mfu} | {memory} | {run['note']} |"
        )
    devices = [run["device"] for run in runs.values()]
    named = dict.fromkeys(f"{d['device']}, {d['precision']}, torch {d['torch']}" for d in devices)
    return [
        *lines,
        "",
        f"{'; or '.join(named)}; draft heads not counted in FLOPs.",
        *_side_losses(runs),
    ]


def _side_losses(runs: dict[str, Any]) -> list[str]:
    told = {name: run["training"].get("side_losses") for name, run in runs.items()}
    lines = [
        f"- {name}: {', '.join(f'{loss} {value:.3g}' for loss, value in found.items())}"
        for name, found in told.items()
        if found
    ]
    return ["", "Losses beside the text's, unweighted, in the last tenth of the steps:", "", *lines] if lines else []


def _positions_table(runs: dict[str, Any]) -> list[str]:
    """Nats a token by eighths of a row, of the runs that have them."""
    told = {name: run["by_position"] for name, run in runs.items() if "by_position" in run}
    if not told:
        return []
    lines = [
        "## Nats a token by its place in a row",
        "",
        "| run | " + " | ".join(f"eighth {n}" for n in range(1, 9)) + " |",
        "|---|" + "---|" * 8,
    ]
    return [*lines, *(f"| {name} | " + " | ".join(f"{x:.3f}" for x in of) + " |" for name, of in told.items()), ""]


def _depths_table(run: dict[str, Any]) -> list[str]:
    """Scores by the number of times a loop is passed."""
    depths = run.get("depths")
    if depths is None:
        return []
    head = ["### Bits per byte by loops", "", "| loops | " + " | ".join(depths) + " |", "|---|" + "---|" * len(depths)]
    return [*head, "| bits per byte | " + " | ".join(f"{bits:.4f}" for bits in depths.values()) + " |", ""]


def _layers_table(run: dict[str, Any]) -> list[str]:
    return _off_table("Each mixer of each layer switched off", run["layers"], "###") if "layers" in run else []


def _off_table(title: str, table: dict[str, Any], level: str = "##") -> list[str]:
    lines = [
        f"{level} {title}",
        "",
        f"On {table['excerpt_bytes']:,} bytes of each of the blend's valid texts, {table['tokens']:,} tokens; "
        f"{table['bits_per_byte']:.4f} bits per byte with everything on.",
        "",
        "| off | max change of a logit | argmax flips | bits per byte |",
        "|---|---|---|---|",
    ]
    for organ, row in sorted(table["organs"].items(), key=lambda item: -item[1]["bits_per_byte"]):
        flips = f"{row['flips'] / table['tokens']:.2%}"
        lines.append(f"| {organ} | {row['max_change']:.3f} | {flips} | {row['bits_per_byte']:.4f} |")
    return [*lines, ""]


def _gate_rows(run: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Gates by place and block of the trunk: of several in one tensor the one furthest open."""
    rows: dict[str, dict[int, float]] = {}
    for name, value in run["gates"].items():
        block, _, place = name.partition(" ")
        furthest = max(value, key=abs) if isinstance(value, list) else value
        rows.setdefault(place, {})[int(block)] = furthest
    return rows


def _gates_table(run: dict[str, Any]) -> list[str]:
    """Places are rows, blocks of the trunk columns."""
    rows = _gate_rows(run)
    if not rows:
        return []
    blocks = sorted({block for row in rows.values() if len(row) > 1 for block in row})
    lines = ["### Gate openings, tanh g", "", "| gate, by layer | " + " | ".join(f"{n // 2}" for n in blocks) + " |"]
    lines.append("|---|" + "---|" * len(blocks))
    for place, row in rows.items():
        if len(row) > 1:
            lines.append(f"| {place} | " + " | ".join(f"{row[n]:+.3f}" for n in blocks) + " |")
    alone = [f"{place} {value:+.3f}" for place, row in rows.items() if len(row) == 1 for value in row.values()]
    once = f" Once in the model: {', '.join(alone)}." if alone else ""
    return [*lines, "", f"Of several gates in one place the one furthest open.{once}", ""]


def _health_table(run: dict[str, Any], readings: tuple[str, ...]) -> list[str]:
    """Chosen readings of health, layer by layer; of more than seven values the least and the largest."""
    rows: dict[str, dict[int, str]] = {}
    for line in run.get("health", ()):
        name = f"{line['organ']}: {line['reading']}"
        if name in readings and line["layer"] is not None:
            values = line["values"]
            shown = values if len(values) <= 7 else [min(values), max(values)]
            rows.setdefault(name, {})[line["layer"]] = (" " if shown is values else " to ").join(
                f"{x:.2f}" for x in shown
            )
    layers = sorted({layer for row in rows.values() for layer in row})
    if not layers:
        return []
    head = ["### What health reads, by layer", "", "| reading | " + " | ".join(map(str, layers)) + " |"]
    body = [f"| {name} | " + " | ".join(row.get(n, "") for n in layers) + " |" for name, row in rows.items()]
    return [*head, "|---|" + "---|" * len(layers), *body, ""]


def _drafts_table(name: str, drafted: list[dict[str, Any]]) -> list[str]:
    lines = [f"### {name}: self-speculation, greedy, one row", ""]
    for drafts in drafted:
        heads = ", ".join(f"{share:.1%}" for share in drafts["accepted_by_head"])
        lines += [
            f"On {drafts['device']}: {drafts['tokens_per_s']['plain']:.1f} tokens/s plain, "
            f"{drafts['tokens_per_s']['drafted']:.1f} with drafts: {drafts['gain']:.2f} times. "
            f"{drafts['accepted']:,} of {drafts['proposed']:,} drafts kept, "
            f"{drafts['tokens'] / drafts['forwards']:.2f} "
            f"tokens a forward; the text was the same in {drafts['same_text']} of {drafts['texts']} (without `exact`, "
            f"near-ties may flip). Right by head, counted alone: {heads}.",
            "",
        ]
    return lines


def _samples(run: dict[str, Any]) -> list[str]:
    return ["### Samples", "", *continuations(run["samples"])]


def _tuning(name: str, tuned: dict[str, Any], said: dict[str, Any]) -> list[str]:
    before, after = said["assistant_before"]["bits_per_byte"], said["assistant_after"]["bits_per_byte"]
    return [
        f"## {name}: tuned on conversations",
        "",
        f"{tuned['steps']:,} steps, {tuned['tokens'] / 1e6:.1f} M tokens, {tuned['epochs']:g} epochs. On "
        f"{said['held_out_conversations']:,} conversations it has not seen, the assistant's words cost {before:.3f} "
        f"bits per byte before and {after:.3f} after; an excerpt of the blend's valid texts costs "
        f"{said['texts_after']['blend']['bits_per_byte']:.3f} after.",
        "",
        *(f"> **{q}** {one_line(t)}\n" for q, t in said["answers"].items()),
    ]


FAMILIES = {
    "positronic": Family(
        "Positronic",
        (("positronic-144m", "control-144m"), ("positronic-15m", "tinygpt-15m")),
        ("kuramoto: order of each ring, after", "specialists: evenness of use", "ring_controller: surprise"),
        _of_positronic,
    ),
    "mycel": Family(
        "Mycel",
        (
            ("mycel-79m", "control-79m"),
            ("mycel-79m-mixer-only", "control-38m"),
            ("mycel-10m", "control-10m"),
        ),
        ("colony: tropism", "colony: spread of the tips, after", "colony: density", "stations: engagement"),
        _of_mycel,
    ),
    "metric": Family(
        "Metric attention",
        (
            ("moa-metric-150m", "moa-dot-150m"),
            ("moa-20m", "moa-20m-dot"),
            ("moa-20m-cosine", "moa-20m-dot"),
            ("moa-20m-l2", "moa-20m-dot"),
            ("moa-tiny", "moa-tiny-dot"),
            ("moa-tiny-cosine", "moa-tiny-dot"),
            ("moa-tiny-l2", "moa-tiny-dot"),
        ),
        (
            "mixture: share of each head",
            "metric_mha: broken triangles",
            "metric_mqa: broken triangles",
            "metric_mha: sharpness",
        ),
        _of_metric,
    ),
    "chimera": Family(
        "Chimera",
        (
            ("chimera-35m", "control-35m"),
            ("chimera-35m-depth-2", "control-35m-short"),
            ("chimera-35m-depth-2", "chimera-35m-depth-1"),
            ("chimera-35m-per-iteration", "chimera-35m-depth-2"),
            ("chimera-35m-no-memory", "chimera-35m-depth-2"),
            ("chimera-tiny", "control-chimera-tiny"),
        ),
        (
            "gated_delta: half-life of each head, tokens",
            "gated_delta: strength of writes",
            "mlstm: half-life of each head, tokens",
            "titans: attention on the window",
            "titans: attention on the slots",
            "titans: attention on what is recalled",
            "deep_memory: norm over its start, each head",
            "experts: share of each expert",
            "experts: evenness of routing",
        ),
        _of_chimera,
    ),
}
"""By the name that `report` is given."""
