"""The first token of a prompt of 2,000 tokens: everything read anew, against an engine that has kept them.

    anew        an engine that keeps nothing reads all
    kept        the same, which are kept; in both one token more stands behind them, which no state holds
    question    the kept tokens and 16 new ones behind them, as where a conversation goes on

Seconds from adding the row to the first token that is heard; then the row is taken out again.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.decoding.subject import Subject, engine_of
from benchmarks.record import in_turn, ratio, spread
from positronic.generation import Engine

__all__ = ["first_token"]

TOKENS, QUESTION, SAID = 2000, 16, 24
"""Kept; new; what a row might still say: enough for a graph."""
KEPT = 2**31
"""Bytes that may be kept."""


def first_token(subject: Subject) -> dict[str, Any]:
    setting = subject.setting
    most = subject.model.config.max_positions - QUESTION - SAID - 1
    prompt = subject.draw(min(TOKENS, most) + 1)  # no state holds the last one
    forgetting, keeping = engine_of(subject.model), engine_of(subject.model, prefix_bytes=KEPT)
    heard = dict[str, int]()

    def first(name: str, engine: Engine, tokens: Sequence[int]) -> float:
        def run() -> None:
            row = subject.row(tokens, SAID)
            row.unread = tokens[:-1]
            engine.add(row)
            said = engine.step()
            while not said:
                said = engine.step()
            heard[name] = said[0][1].token

        seconds = setting.seconds(run)
        engine.clear()
        return seconds

    reader = subject.row(prompt[:-1], 1)
    reader.unread = prompt[:-2]
    keeping.add(reader)
    while keeping.busy:
        keeping.step()
    asked = [*prompt[:-1], *subject.draw(QUESTION)]
    forms = {
        "anew": lambda: first("anew", forgetting, prompt),
        "kept": lambda: first("kept", keeping, prompt),
        "question": lambda: first("question", keeping, asked),
    }
    seconds = in_turn(forms, rounds=setting.rounds, warmup=1)
    return {
        "prompt_tokens": len(prompt) - 1,
        "question_tokens": QUESTION,
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "of_anew": {name: ratio(seconds[name], seconds["anew"]) for name in ("kept", "question")},
        "same_token": heard["anew"] == heard["kept"],
    }
