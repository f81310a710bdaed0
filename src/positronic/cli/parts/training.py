"""A run on the command line: trained with progress, its curve drawn, and told where it stands at its end."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from positronic.cli.console import print_json, say

if TYPE_CHECKING:
    from positronic.data import Counts
    from positronic.recipes import RunConfig
    from positronic.train import TrainState

__all__ = ["execute", "report_end"]

READING_S = 3.0


def execute(
    run: "RunConfig", out: Path, *, device: str, resume: bool, tokenizer: Path | None, until: int | None = None
) -> "TrainState | None":
    """Train (to step `until`) with progress and draw the curve; None in processes that are not to speak of it."""
    from positronic.recipes import train_run
    from positronic.text import Tokenizer
    from positronic.train import launched, progress
    from positronic.viz import draw_curve

    with launched(device) as ranks:
        state = train_run(
            run,
            out,
            tokenizer=None if tokenizer is None else Tokenizer.load(tokenizer),
            go_on=resume,
            device=device,
            ranks=ranks,
            observers=[progress()],
            progress=_reading(),
            until=until,
        )
        if not ranks.first:
            return None
    if state.counters.step:
        try:
            drawn = draw_curve(out / "metrics.jsonl", out / "loss.png", title=out.name)
        except OSError as error:
            (out / "loss.png").unlink(missing_ok=True)
            say(f"(no loss.png: {error.strerror or error})")
        else:
            if not drawn:
                say("(no loss.png: install matplotlib to have curves drawn)")
    return state


def _reading() -> "Callable[[Counts], None]":
    """Says how far the text has been read, every few seconds."""
    due = time.monotonic() + READING_S

    def tell(counts: "Counts") -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + READING_S
            say(f"  read {counts.documents:,} documents, {counts.tokens:,} tokens")

    return tell


def report_end(state: "TrainState", out: Path, *, as_json: bool, resume: str) -> int:
    """Say where a run stands and what to type next; the exit code, 130 if the user stopped it."""
    count, best = state.counters, state.counters.best_bits_per_byte
    if as_json:
        print_json(
            {
                "run": str(out),
                "stopped": state.stopped,
                "step": count.step,
                "tokens": count.tokens,
                "seconds": count.seconds,
                "skipped": count.skipped,
                "best_bits_per_byte": best,
            }
        )
    elif state.stopped == "interrupted":
        say(f"Interrupted after step {count.step}; everything is saved. Go on with:\n  {resume}")
    elif state.stopped is None:
        say(f"{count.step:,} steps, and more follow; everything is saved. Go on with:\n  {resume}")
    else:
        held_out = "" if best is None else f", best held-out {best:.4f} bits/byte"
        say(f"{count.step:,} steps, {count.tokens:,} tokens{held_out}. Next:")
        say(f'  positronic generate {out}/last --prompt "..."')
    return 130 if state.stopped == "interrupted" else 0
