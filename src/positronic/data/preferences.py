"""Pairs of answers out of files: two conversations that begin alike and end differently, of which one is preferred.

A record of a known shape is read twice, with the chosen answer in place and with the rejected one, by the readers of
conversations (`chat_shapes.py`):

    sharegpt      conversations, chosen {from, value}, rejected
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

from positronic.data.chat import Conversation
from positronic.data.chat_shapes import from_record, present, unreadable
from positronic.data.encode import Encoded, id_type
from positronic.data.sources import DataSpec, Source, files_fingerprint, find_files, records
from positronic.errors import DataError
from positronic.text import Message, Tokenizer, render

__all__ = ["Pair", "PairFiles", "encode_pairs", "open_pairs"]

SUFFIXES = (".jsonl", ".json", ".parquet")
READER = 2
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
        raise DataError(f"{spec.path}#{spec.field} names a field, but pairs are known by their shape; leave it out.")
    return PairFiles(*spec.on_disk(None))


class PairFiles:
    """The pairs of one file, or of all files of a folder, in the same order every time."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self.files = find_files(path, SUFFIXES, "pairs of answers")

    @cached_property
    def fingerprint(self) -> str:
        """Of the reader and of the files' names and stored bytes."""
        return files_fingerprint(f"pairs {READER}", self.path, self.files)

    def __iter__(self) -> Iterator[Pair]:
        for path in self.files:
            root = path.parent if path == self.path else self.path
            for where, record in records(path, path.relative_to(root).as_posix()):
                try:
                    pair = _pair(record, where)
                except DataError as error:
                    raise unreadable(root / where, "pair of answers", error) from error
                if pair is not None:
                    yield pair


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


def _pair(record: Any, name: str) -> Pair | None:
    """None: nobody prefers either."""
    if not isinstance(record, dict):
        raise DataError("it is no JSON object")
    sides = _sides(present(record))
    if sides is None:
        return None
    chosen, rejected = (from_record(side) for side in sides)
    if chosen == rejected:
        return None
    common = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    if common == 0:
        raise DataError("both conversations must begin with the same message")
    return Pair(_learned_after(common, chosen), _learned_after(common, rejected), name)


def _learned_after(common: int, messages: list[Message]) -> tuple[Message, ...]:
    """The conversation, to be learned from in what the assistant says after the first `common` turns."""
    if len(messages) == common or messages[-1].role != "assistant":
        raise DataError("an answer is missing: the last turn is not the assistant's")
    before = (replace(m, loss=False) if m.role == "assistant" else m for m in messages[:common])
    return (*before, *messages[common:])


def _sides(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The record with the chosen and with the rejected answer, as records of conversations."""
    if "response1" in record and "response2" in record:
        votes = Counter(v for k, v in record.items() if k.startswith("annotator"))
        if votes[1] == votes[2]:
            return None
        order = ("response1", "response2") if votes[1] > votes[2] else ("response2", "response1")
        return [{**record, "output": record[side]} for side in order]
    answers = [record.get("chosen"), record.get("rejected")]
    if any(answer is None for answer in answers):
        raise DataError(f"its fields are {', '.join(record) or 'none'}; a pair has chosen and rejected")
    if "conversations" in record:
        return [{**record, "conversations": [*record["conversations"], answer]} for answer in answers]
    if "instruction" in record:
        return [{**record, "output": answer} for answer in answers]
    if "prompt" in record and not all(_begins_with_prompt(answer) for answer in answers):
        asked = _turns(record["prompt"], "user")
        return [{"messages": asked + _turns(answer, "assistant")} for answer in answers]
    return [{"messages": _transcript(answer) if isinstance(answer, str) else answer} for answer in answers]


def _begins_with_prompt(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and answer[0].get("role") != "assistant"


def _turns(text: Any, role: str) -> list[Any]:
    return [{"role": role, "content": text}] if isinstance(text, str) else list(text)


def _transcript(text: str) -> list[dict[str, str]]:
    """The turns of a text in which each begins with a blank line and Human: or Assistant:."""
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if len(parts) < 3 or parts[0].strip():
        raise DataError("it is text without a prompt, and no transcript of Human: and Assistant: turns")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]
