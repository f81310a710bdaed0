"""One page about one run: what was trained, how well, how it sounds, what to type next. Opens without a network."""

import base64
import html
from dataclasses import dataclass, field
from pathlib import Path

from positronic.viz.policy import policy

__all__ = ["Report", "Table", "write_report"]

STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5b6472; --line: #e2e5ea; --paper: #fbfbf9; --card: #fff;
  --accent: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ee; --soft: #9aa4b2; --line: #2c323d; --paper: #14171d;
  --card: #1b1f27; --accent: #fb923c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .4rem .2rem; border-bottom: 1px solid var(--line); text-align: left; font-weight: 400; }
td + td, th + th { text-align: right; } th { color: var(--soft); }
tr.ours td { font-weight: 650; color: var(--accent); }
img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px; background: #fff; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: .9rem 1rem; font: 13.5px/1.5 ui-monospace, monospace; }
pre b { color: var(--accent); font-weight: 600; }
"""


@dataclass(frozen=True)
class Table:
    """One table of the page under its own heading."""

    title: str
    columns: tuple[str, ...]
    """Heads of the columns, the first often empty."""
    rows: list[tuple[str, ...]]
    note: str = ""
    """What it means, below it."""
    sample: tuple[str, str] | None = None
    """A prompt and how the model went on, below that."""


@dataclass(frozen=True)
class Report:
    """What the page says; every number is formatted by the caller."""

    title: str
    summary: str
    facts: dict[str, str]
    scores: dict[str, str]
    """Bits per byte by who reached it, in the order to show."""
    ours: str
    """Which of `scores` is this model."""
    verdict: str
    curve: Path | None
    samples: list[tuple[str, str]] = field(default_factory=list)
    """Prompts and how the model went on."""
    tables: list[Table] = field(default_factory=list)
    """What else is to be shown, in this order, after the samples."""
    commands: list[str] = field(default_factory=list)


def write_report(report: Report, out: Path) -> None:
    """Write the page, picture included."""
    say = html.escape
    rows = "".join(
        f"<tr{' class=ours' if name == report.ours else ''}><td>{say(name)}</td><td>{say(value)}</td></tr>"
        for name, value in report.scores.items()
    )
    facts = "".join(f"<tr><td>{say(k)}</td><td>{say(v)}</td></tr>" for k, v in report.facts.items())
    samples = "".join(map(_spoken, report.samples))
    picture = ""
    if report.curve is not None:
        data = base64.b64encode(report.curve.read_bytes()).decode()
        picture = f'<h2>Learning</h2><img alt="bits per byte over tokens" src="data:image/png;base64,{data}">'
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{policy(STYLE)}
<link rel="icon" href="data:,"><title>{say(report.title)}</title><style>{STYLE}</style></head><body><main>
<h1>{say(report.title)}</h1><p class="soft">{say(report.summary)}</p>
<h2>Bits per byte of held-out text (lower is better)</h2><table>{rows}</table><p>{say(report.verdict)}</p>
{picture}
<h2>How it sounds</h2>{samples}
{"".join(map(_drawn, report.tables))}
<h2>What was trained</h2><table>{facts}</table>
<h2>What to type next</h2><pre>{say(chr(10).join(report.commands))}</pre>
</main></body></html>
"""
    out.write_text(page, "utf-8", "backslashreplace")


def _spoken(sample: tuple[str, str]) -> str:
    prompt, text = sample
    return f"<pre><b>{html.escape(prompt)}</b>{html.escape(text)}</pre>"


def _drawn(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="soft">{html.escape(table.note)}</p>' if table.note else ""
    sample = "" if table.sample is None else _spoken(table.sample)
    return f"<h2>{html.escape(table.title)}</h2><table><tr>{head}</tr>{body}</table>{note}{sample}"
