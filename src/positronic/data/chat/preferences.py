"""Pairs of answers out of files: two conversations that begin alike and end differently, of which one is preferred.

A record of a known format is read twice, with the chosen answer in place and with the rejected one, by the readers of
conversations (`formats.py`):

    sharegpt      conversations, chosen (a turn, turns or text), rejected
    messages      prompt (text or messages), chosen (text or messages), rejected; or messages in common, which are
                  then the prompt, also where it stands beside them
    alpaca        instruction, input, chosen, rejected
    transcripts   chosen, rejected: "\\n\\nHuman: ...\\n\\nAssistant: ..."
    votes         instruction, input, response1, response2, annotator1 ...: what most voted for; a tie is passed over
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from positronic.data.chat.conversations import Conversation, columnar, placed
from positronic.data.chat.formats import from_record, present, unreadable
from positronic.data.chat.loss_flags import learned
from positronic.data.chat.turns import check_depth, text_of
from positronic.data.sources.documents import DataSpec, Source, files_fingerprint, find_files, records
from positronic.data.sources.hub import HubSet
from positronic.data.tokens.encode import Encoded, id_type
from positronic.errors import DataError
from positronic.text import Message, Tokenizer, render, shown

__all__ = ["Pair", "PairFiles", "encode_pairs", "open_pairs"]

SUFFIXES = (".jsonl", ".json", ".parquet")
SIDES = ("chosen", "rejected")
SPEAKS = ("assistant", "gpt", "function_call")
"""Roles with which an answer begins."""
READER = 3
"""Version of how records become pairs; part of every fingerprint."""


@dataclass(frozen=True)
class Pair:
    """Two conversations with the same beginning; what the assistant says after it is learned from."""

    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    name: str

    @property
    def text_hash(self) -> int:
        """That of the chosen conversation."""
        return Conversation(self.chosen, self.name).text_hash


def open_pairs(spec: DataSpec | str | Path) -> "PairFiles":
    """The pairs at `PATH`; a weight is for the mixture and changes nothing here."""
    spec = DataSpec.of(spec)
    if spec.field is not None:
        raise DataError(f"{spec.path}#{spec.field} names a field, but pairs are known by their format; leave it out.")
    return PairFiles(*spec.on_disk(None), spec.path if isinstance(spec.path, HubSet) else None)


class PairFiles:
    """The pairs of one file, or of all files of a folder, in the same order every time."""

    def __init__(self, path: Path, name: str, rows_of: HubSet | None = None):
        """rows_of: the data set whose rows the file at `path` holds."""
        self.path, self.name, self.rows_of = path, name, rows_of
        self.files = find_files(path, SUFFIXES, "pairs of answers")

    @cached_property
    def fingerprint(self) -> str:
        """Of the reader and of the files' names and stored bytes."""
        return files_fingerprint(f"pairs {READER}{' rows' if self.rows_of else ''}", self.path, self.files)

    def __iter__(self) -> Iterator[Pair]:
        for path in self.files:
            root = path.parent if path == self.path else self.path
            for where, record in records(path, path.relative_to(root).as_posix()):
                try:
                    check_depth(record)
                    pair = _pair(present(record) if columnar(path, self.rows_of) else record)
                except DataError as error:
                    raise unreadable(placed(root / where, self.rows_of), "pair of answers", error) from error
                if pair is not None:
                    yield Pair(*pair, where)


def encode_pairs(source: Source[Pair], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Each pair as one stretch: the chosen conversation, `eot_id`, the rejected one, `eot_id`."""
    width = id_type(tokenizer)
    for pair in source:
        ids: list[int] = []
        counted: list[bool] = []
        for messages in (pair.chosen, pair.rejected):
            rendered = render(tokenizer, messages)
            ids += [*rendered.ids, tokenizer.eot_id]
            counted += [*rendered.loss_mask, False]
        array = np.array(ids, width)
        yield Encoded(array, tokenizer.n_bytes(array), np.array(counted))


def _pair(record: Any) -> tuple[tuple[Message, ...], tuple[Message, ...]] | None:
    """The chosen and the rejected conversation; None: nobody prefers either, or nothing is to be learned."""
    if not isinstance(record, dict):
        raise DataError("it is no JSON object")
    record = {name: value for name, value in record.items() if value is not None}
    flag = learned(record, "it")
    sides = _sides(record)
    if sides is None or (flag is not None and not flag[1]):
        return None
    chosen, rejected = (from_record(side) for side in sides)
    if chosen == rejected:
        return None
    common = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    if common == 0:
        raise DataError("both conversations must begin with the same message")
    return _learned_after(common, chosen), _learned_after(common, rejected)


def _learned_after(common: int, messages: list[Message]) -> tuple[Message, ...]:
    """The conversation, to be learned from in what the assistant says after the first `common` turns."""
    if len(messages) == common or messages[-1].role != "assistant":
        raise DataError("an answer is missing: the last turn is not the assistant's")
    if not all(message.loss for message in messages[common:]):
        raise DataError("an answer is not to be learned from, by its own fields; a pair is of two that are")
    before = (replace(m, loss=False) if m.role == "assistant" else m for m in messages[:common])
    return (*before, *messages[common:])


def _sides(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The record with the chosen and with the rejected answer, as records of conversations."""
    if "response1" in record and "response2" in record:
        votes = Counter(_vote(name, value) for name, value in record.items() if name.startswith("annotator"))
        if votes[1] == votes[2]:
            return None
        order = ("response1", "response2") if votes[1] > votes[2] else ("response2", "response1")
        return [{**record, "output": text_of(record, side)} for side in order]
    if "chosen" not in record or "rejected" not in record:
        raise DataError(f"its fields are {', '.join(record) or 'none'}; a pair has chosen and rejected")
    if "conversations" in record:
        asked = _listed(record, "conversations")
        return [{**record, "conversations": asked + _answer(record, side)} for side in SIDES]
    if "instruction" in record:
        return [{**record, "output": text_of(record, side)} for side in SIDES]
    beside = {name: record[name] for name in ("system", "tools") if name in record}
    if "prompt" in record and not _holds_prompt(record):
        asked = [_turn("user", record["prompt"])] if isinstance(record["prompt"], str) else _listed(record, "prompt")
        return [{**beside, "messages": asked + _answer(record, side)} for side in SIDES]
    if all(isinstance(record[side], str) for side in SIDES):
        return [{**beside, "messages": _transcript(record[side])} for side in SIDES]
    return [{**beside, "messages": _listed(record, side)} for side in SIDES]


def _vote(name: str, value: Any) -> float:
    if not isinstance(value, int | float):
        raise DataError(f"{shown(name)} is {shown(value)}, and no vote, which is a number")
    return value


def _holds_prompt(record: Mapping[str, Any]) -> bool:
    """Whether both answers are conversations that begin with what was asked."""
    firsts = [record[side][0] for side in SIDES if isinstance(record[side], list) and record[side]]
    begun = [isinstance(turn, dict) and turn.get("role", turn.get("from")) not in SPEAKS for turn in firsts]
    if any(begun) and begun != [True, True]:
        raise DataError("one of chosen and rejected begins with what was asked, and the other does not")
    return any(begun)


def _answer(record: Mapping[str, Any], side: str) -> list[Any]:
    """The turns of an answer: text, one turn, or several."""
    answer = record[side]
    if isinstance(answer, str):
        return [_turn("assistant", answer)]
    return [answer] if isinstance(answer, dict) else _listed(record, side)


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _listed(record: Mapping[str, Any], field: str) -> list[Any]:
    if not isinstance(record[field], list) or not all(isinstance(turn, dict) for turn in record[field]):
        raise DataError(f"{field!r} is {shown(record[field])}, and neither text nor turns")
    return record[field]


def _transcript(text: str) -> list[dict[str, str]]:
    """The turns of a text in which each begins with a blank line and Human: or Assistant:."""
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if len(parts) < 3 or parts[0].strip():
        raise DataError("it is text without a prompt, and no transcript of Human: and Assistant: turns")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [_turn(roles[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True)]
