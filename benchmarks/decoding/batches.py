"""Several rows against one, and what it costs that rows leave and join.

Several: rounds of the engine in which every row says a token; all have joined before, and none ends. On CUDA they are
few enough for one extent of the graphs.

Joining: 16 rows that have read 1,024 tokens each. Where each says 256 tokens and then makes place for another one that
has been read, one row leaves and one joins every 256 / 16 = 16 rounds. So 64 rounds are decoded in which a row ends and
another is added at the rounds 8, 24, 40 and 56, against 64 rounds in which nobody does:

    share          seconds with / seconds without - 1, median over rounds that alternate
    by rounds      (rounds in which a row left or joined, beyond the median of the others) / (16 times that median)

The second is of the same run and less noisy. A row leaves with a copy of what it remembers, as it does when served.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.decoding.subject import PROMPT, Subject, engine_of
from benchmarks.record import in_turn, ratio, spread
from positronic.generation import Engine, Row
from positronic.state import DecodeState

__all__ = ["joining", "several"]

MARGIN = 8
"""Tokens that rows could still say when a measurement ends, so that none leaves during it."""
ROWS, READ, SAID, ROUNDS = 16, 1024, 256, 64
EVERY = SAID // ROWS
LEAVE = range(EVERY // 2, ROUNDS, EVERY)
"""Rounds at whose end a row has ended."""

Read = tuple[list[int], DecodeState, Tensor]
"""A prompt, what stands before its last token, and the last hidden vector."""


def several(subject: Subject, sizes: Sequence[int], rounds_a_row: int) -> dict[str, Any]:
    """Tokens a second of so many rows, prompts of 128 tokens read before, against those of one."""
    setting = subject.setting
    prompts = [subject.draw(PROMPT) for _ in range(max(sizes))]
    read: list[Read] = [(prompt, *subject.after(prompt)) for prompt in prompts]
    engine = engine_of(subject.model, max(sizes))

    def rows(size: int) -> Callable[[], float]:
        def run() -> float:
            for prompt, state, hidden in read[:size]:
                engine.add(subject.row(prompt, rounds_a_row + MARGIN, hidden), state)
            engine.step()  # all join
            seconds = setting.seconds(lambda: [engine.step() for _ in range(rounds_a_row)])
            engine.clear()
            return seconds

        return run

    seconds = in_turn({str(size): rows(size) for size in (1, *sizes)}, rounds=setting.rounds, warmup=1)
    return {
        size: spread(taken)
        | {"tokens_per_s": int(size) * rounds_a_row / spread(taken)["median_s"]}
        | {"times_one_row": _scaled(ratio(seconds["1"], taken), int(size))}
        for size, taken in seconds.items()
    }


def joining(subject: Subject) -> dict[str, Any]:
    """What leaving and joining cost, as a share of decoding."""
    setting = subject.setting
    prompt = subject.draw(READ)
    state, hidden = subject.after(prompt)
    same = torch.zeros(1, dtype=torch.long, device=state.position.device)
    read: list[Read] = [(prompt, state.select(same), hidden) for _ in range(ROWS + len(LEAVE))]
    engine = engine_of(subject.model, ROWS)
    excess: list[float] = []

    def run(leave: Sequence[int]) -> float:
        here = [subject.row(prompt, _says(place, leave), hidden) for place in range(ROWS)]
        for row, (_, before, _) in zip(here, read[:ROWS], strict=True):
            engine.add(row, before)
        engine.step()  # all join
        waiting = [(subject.row(prompt, SAID, hidden), before) for _, before, _ in read[ROWS:]]
        taken: list[float] = []
        seconds = setting.seconds(lambda: taken.extend(_rounds(engine, waiting)))
        assert len(waiting) == len(LEAVE) - len(leave), "every row that ended made place"
        engine.clear()
        if leave:
            near = {place + after for place in leave for after in (-1, 0, 1)}  # round r is the one at r - 1
            usual = statistics.median(one for place, one in enumerate(taken) if place not in near)
            excess.append(sum(taken[place] - usual for place in near) / len(leave) / (EVERY * usual))
        return seconds

    forms = {"with": lambda: run(LEAVE), "without": lambda: run(())}
    seconds = in_turn(forms, rounds=setting.rounds, warmup=1)
    share = {name: value - 1 for name, value in ratio(seconds["with"], seconds["without"]).items()}
    return {
        "rows": ROWS,
        "read_tokens": READ,
        "rounds": ROUNDS,
        "exchanges": len(LEAVE),
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "share": share,
        "share_by_rounds": statistics.median(excess[1:]),  # without the warm-up
    }


def _rounds(engine: Engine, waiting: list[tuple[Row, DecodeState]]) -> list[float]:
    """Seconds of each round; whoever ends makes place for the next who waits."""
    taken: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _, output in engine.step():
            if output.stop_reason is not None:
                engine.add(*waiting.pop(0))
        taken.append(time.perf_counter() - start)
    return taken


def _says(place: int, leave: Sequence[int]) -> int:
    """Tokens of a row: one is said while all join, and one more than all rounds have if it stays."""
    return 1 + (leave[place] if place < len(leave) else ROUNDS + MARGIN)


def _scaled(numbers: dict[str, float], factor: int) -> dict[str, float]:
    return {name: factor * value for name, value in numbers.items()}
