"""The health of a model as one page: what to do, then every reading of every organ as bars, layer beside layer."""

import html
from collections.abc import Sequence
from math import inf
from pathlib import Path

from positronic.observe.health import BROKEN, OK, WATCH, Health, Line, worst
from positronic.viz.policy import policy
from positronic.viz.report import STYLE

__all__ = ["write_health"]

HEALTH_STYLE = """
:root { --ok: #0f766e; --watch: #a16207; --broken: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ok: #2dd4bf; --watch: #facc15; --broken: #f87171; } }
h1 { overflow-wrap: anywhere; }
table { table-layout: fixed; } td { vertical-align: middle; width: 26%; } td.bars { width: 38%; padding-right: 1rem; }
td.bars svg { display: block; width: 100%; height: 44px; } td.range { width: 23%; } td.verdict { width: 13%; }
td.range, td.verdict { white-space: nowrap; }
.verdict { font-weight: 650; }
.ok { color: var(--ok); } .watch { color: var(--watch); } .broken { color: var(--broken); }
rect.ok { fill: var(--ok); opacity: .7; } rect.watch { fill: var(--watch); } rect.broken { fill: var(--broken); }
line { stroke: var(--line); } text { fill: var(--soft); font: 9px system-ui, sans-serif; }
.finding { background: var(--card); border: 1px solid var(--line); border-left: 4px solid; border-radius: 8px;
  padding: .6rem .9rem; margin: .6rem 0; } .finding p { color: var(--ink); }
@media (max-width: 34rem) { td.range { display: none; } td { width: 34%; }
  td.bars { width: 44%; } td.verdict { width: 22%; } }
"""
WIDTH, HEIGHT, FOOT = 320, 44, 10
"""Of a plot and of the line below it, in its own units."""
MARKS = {OK: "\N{CHECK MARK}", WATCH: "!", BROKEN: "\N{MULTIPLICATION X}"}


def write_health(health: Health, title: str, out: Path) -> None:
    """Write the page; it needs no network and no script."""
    counts = {v: sum(line.verdict == v for line in health.lines) for v in (BROKEN, WATCH, OK)}
    summary = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
    steps = "no record of training" if health.steps is None else f"{health.steps:,} optimizer steps"
    found = "".join(_finding(*found) for found in health.findings().items()) or "<p>Nothing: every line is ok.</p>"
    organs: dict[str, str] = {}
    for (organ, reading), lines in health.groups().items():
        organs[organ] = organs.get(organ, "") + _row(reading, lines)
    sections = "".join(f"<h2>{_said(organ)}</h2><table>{rows}</table>" for organ, rows in organs.items())
    state = worst(health.lines)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{policy(STYLE + HEALTH_STYLE)}
<link rel="icon" href="data:,"><title>{html.escape(title)}</title>
<style>{STYLE + HEALTH_STYLE}</style></head><body><main>
<h1>{html.escape(title)}</h1><p class="soft"><span class="verdict {state}">{state}</span>: {summary}; {steps}.</p>
<h2>What to do</h2>{found}
<p class="soft">Below, a group of bars is a layer, and a bar in it one ring, gate, head or expert; bars start at 0.</p>
{sections}
</main></body></html>
"""
    out.write_text(page, "utf-8", "backslashreplace")


def _said(name: str) -> str:
    return html.escape(name.replace("_", " "))


def _finding(name: str, lines: Sequence[Line]) -> str:
    places = ", ".join(dict.fromkeys(line.place for line in lines))
    details = " ".join(dict.fromkeys(line.detail for line in lines if line.detail))
    return (
        f'<div class="finding {lines[0].verdict}"><span class=verdict>{html.escape(name)}</span> in '
        f"{html.escape(places)}<p>{html.escape(lines[0].advice)}</p><p class=soft>{html.escape(details)}</p></div>"
    )


def _row(reading: str, lines: Sequence[Line]) -> str:
    values = [x for line in lines for x in line.values if abs(x) < inf]
    low, high = (f"{min(values):.3g}", f"{max(values):.3g}") if values else ("not finite",) * 2
    extent = low if low == high else f"{low} … {high}"
    state = worst(lines)
    return (
        f"<tr><td>{html.escape(reading)}</td><td class=bars>{_bars(lines)}</td><td class=range>{extent}</td>"
        f'<td class="verdict {state}">{MARKS[state]} {state}</td></tr>'
    )


def _bars(lines: Sequence[Line]) -> str:
    """Groups of bars, a layer each, its number below where there are several; one number alone needs no bar."""
    if len(lines) == len(lines[0].values) == 1:
        return ""
    numbered = len(lines) > 1
    high = HEIGHT - FOOT * numbered
    finite = [x for line in lines for x in line.values if abs(x) < inf] or [0.0]
    top, bottom = max(0.0, *finite), min(0.0, *finite)
    unit = high / ((top - bottom) or 1.0)
    zero = top * unit
    wide = WIDTH / len(lines)
    drawn = [f'<line x1="0" x2="{WIDTH}" y1="{zero:.2f}" y2="{zero:.2f}"/>']
    for group, line in enumerate(lines):
        gap = min(6.0, wide / 6) * numbered
        each = (wide - gap) / len(line.values)
        for i, x in enumerate(line.values):
            left, size = group * wide + i * each, min(each * 0.86, 24.0)
            if abs(x) < inf:
                y, tall = (zero - x * unit, x * unit) if x > 0 else (zero, -x * unit)
                where = f'x="{left:.2f}" y="{y:.2f}" width="{size:.2f}" height="{max(tall, 0.5):.2f}"'
                drawn.append(f"<rect class={line.verdict} {where}><title>{x:.4g}</title></rect>")
            else:
                drawn.append(f'<text class={line.verdict} x="{left:.2f}" y="{zero - 2:.2f}">{MARKS[BROKEN]}</text>')
        if numbered:
            drawn.append(f'<text x="{group * wide:.2f}" y="{HEIGHT - 1}">{line.layer}</text>')
    said = html.escape("; ".join(" ".join(f"{x:.3g}" for x in line.values) for line in lines))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{said}">'
        f"{''.join(drawn)}</svg>"
    )
