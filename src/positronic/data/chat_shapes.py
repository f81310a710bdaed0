"""The shapes in which conversations are published, each read into messages.

A shape is known by its fields; one that is null is absent, as in tables, where every row has all columns. What an
assistant writes between <think> and </think> before its answer is its thinking. Errors say in a few words what is wrong
with a record; the reader of files (`chat.py`) adds where it stands.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from positronic.errors import DataError
from positronic.text import Message, ToolCall, with_tools

__all__ = ["SHAPES", "from_columns", "from_record", "present", "unreadable"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """A way to write a conversation down."""

    name: str
    fields: tuple[str, ...]
    """A record is of this shape if it has all of these."""
    read: Callable[[Record], list[Message]]


def from_record(record: Any) -> list[Message]:
    """The messages of one json object."""
    if not isinstance(record, dict):
        raise DataError("it is no JSON object")
    record = present(record)
    shape = next((shape for shape in SHAPES if all(field in record for field in shape.fields)), None)
    if shape is None:
        known = "; ".join(f"{shape.name} ({', '.join(shape.fields)})" for shape in SHAPES)
        raise DataError(
            f"its fields are {', '.join(record) or 'none'}, and the shapes known are {known}; "
            f"tsv (question, answer, rationale)"
        )
    return [_thinking(message) for message in shape.read(record)]


def present(value: Any) -> Any:
    """Without what is null, at any depth."""
    if isinstance(value, dict):
        return {key: present(item) for key, item in value.items() if item is not None}
    return [present(item) for item in value] if isinstance(value, list) else value


def _thinking(message: Message) -> Message:
    """The message with the thoughts that its text begins with in their place."""
    found = _THOUGHT.fullmatch(message.content) if message.role == "assistant" and message.think is None else None
    if found is None:
        return message
    return replace(message, think=found["think"].strip() or None, content=found["said"])


_THOUGHT = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*(?P<said>.*)", re.DOTALL)


def from_columns(columns: list[str]) -> list[Message]:
    """FLAN chain of thought: question, answer, rationale; a line end is written as backslash and n."""
    if len(columns) != 3:
        raise DataError(f"it has {len(columns)} columns, and not question, answer and rationale")
    question, answer, rationale = (column.replace("\\n", "\n").strip() for column in columns)
    return [_user(question), Message("assistant", think=rationale or None, solution=answer)]


def _messages(record: Record) -> list[Message]:
    return with_tools([_message(part) for part in _objects(record, "messages")], _tools(record))


def _message(part: Record) -> Message:
    """One of `messages`: content is text or typed parts, `loss_weight` 0 or 1."""
    fields = {name: value for name, value in part.items() if name != "loss_weight"}
    fields["role"] = {"developer": "system", "function": "tool"}.get(part.get("role", ""), part.get("role"))
    weight = part.get("loss_weight")
    if weight not in (None, 0, 1) or (weight == 1 and part.get("role") != "assistant"):
        raise DataError(f"a message of the {part.get('role')} has loss_weight {weight!r}; an assistant's may be 0 or 1")
    if weight == 0 and part.get("role") == "assistant":
        fields["loss"] = False
    if isinstance(part.get("content"), list):
        found: dict[str, list[str]] = {"text": [], "reasoning": [], "tool_call": []}
        for piece in _objects(part, "content"):
            kind = piece.get("type", "text")
            if kind not in found:
                raise DataError(f"a message has a part of type {kind!r}; types known are {', '.join(found)}")
            found[kind].append(_text(piece, "value" if "value" in piece else "text"))
        fields["content"] = "".join(found["text"])
        if found["reasoning"]:
            fields["think"] = "\n".join(found["reasoning"])
        if found["tool_call"]:
            fields["tool_calls"] = [_json(call) for call in found["tool_call"]]
    return Message.from_dict(fields)


def _sharegpt(record: Record) -> list[Message]:
    made = [_system(record["system"])] if record.get("system") else []
    for part in _objects(record, "conversations"):
        role, text = part.get("from"), _text(part, "value")
        if role == "function_call":
            calls = _json(text)
            calls = calls if isinstance(calls, list) else [calls]
            made.append(Message("assistant", tool_calls=tuple(ToolCall.from_dict(call) for call in calls)))
        elif role in _SHAREGPT_ROLES:
            made.append(Message.from_dict({"role": _SHAREGPT_ROLES[role], "content": text}))
        else:
            raise DataError(f"'from' is {role!r}; known are function_call, {', '.join(_SHAREGPT_ROLES)}")
    return with_tools(made, _tools(record))


_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def _alpaca(record: Record) -> list[Message]:
    made = [_system(record["system"])] if record.get("system") else []
    for asked, answered in record.get("history") or []:
        made += [_user(asked), _assistant(answered)]
    answer = _assistant(_text(record, "output" if "output" in record else "response"))
    return [*made, _user(_joined(_text(record, "instruction"), record.get("input"))), answer]


def _seed_task(record: Record) -> list[Message]:
    """The first instance of a task."""
    instances = _objects(record, "instances")
    return _alpaca({**instances[0], "instruction": record["instruction"]}) if instances else []


def _question(record: Record) -> list[Message]:
    """What stands before `####` is the thinking, without its calculator marks <<a*b=c>>; what follows, the solution."""
    question = _user(_joined(record.get("body"), _text(record, "question")))
    thought, mark, solution = _text(record, "answer").rpartition("####")
    if not mark:
        return [question, _assistant(solution)]
    thought = re.sub(r"<<[^<>]*>>", "", thought).strip()
    return [question, Message("assistant", think=thought or None, solution=solution.strip())]


def _prompt(answer: str) -> Callable[[Record], list[Message]]:
    return lambda record: [_user(_text(record, "prompt")), _assistant(_text(record, answer))]


def _problem(record: Record) -> list[Message]:
    return [_user(_text(record, "problem")), _assistant(_text(record, "solution"))]


def _topical_chat(record: Record) -> list[Message]:
    """Two people; the one who speaks first is the user."""
    turns = [(_text(turn, "agent"), _text(turn, "message")) for turn in _objects(record, "content")]
    return [_user(text) if agent == turns[0][0] else _assistant(text) for agent, text in turns]


def _schema_guided(record: Record) -> list[Message]:
    """A service call is a turn of its own, its results those of a tool; then the assistant says what it says."""
    made = []
    for turn in _objects(record, "turns"):
        if turn.get("speaker") == "USER":
            made.append(_user(_text(turn, "utterance")))
            continue
        for frame in _objects(turn, "frames"):
            if "service_call" in frame:
                call = frame["service_call"]
                wanted = ToolCall.from_dict({"name": call.get("method"), "arguments": call.get("parameters")})
                made.append(Message("assistant", tool_calls=(wanted,)))
                made.append(Message("tool", json.dumps(frame.get("service_results", []), ensure_ascii=False)))
        made.append(_assistant(_text(turn, "utterance")))
    return made


SHAPES = (
    Shape("chat messages", ("messages",), _messages),
    Shape("sharegpt", ("conversations",), _sharegpt),
    Shape("schema-guided dialogue", ("turns",), _schema_guided),
    Shape("Topical-Chat", ("content",), _topical_chat),
    Shape("alpaca", ("instruction", "output"), _alpaca),
    Shape("alpaca", ("instruction", "response"), _alpaca),
    Shape("seed task", ("instruction", "instances"), _seed_task),
    Shape("question and answer", ("question", "answer"), _question),
    Shape("prompt and answer", ("prompt", "response"), _prompt("response")),
    Shape("prompt and answer", ("prompt", "completion"), _prompt("completion")),
    Shape("problem and solution", ("problem", "solution"), _problem),
)


def _system(text: str) -> Message:
    return Message("system", text)


def _user(text: str) -> Message:
    return Message("user", text)


def _assistant(text: str) -> Message:
    return Message("assistant", text)


def _joined(*texts: str | None) -> str:
    return "\n\n".join(text for text in texts if text)


def _text(record: Record, field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise DataError(f"{field!r} is {'missing' if value is None else type(value).__name__}, and not text")
    return value


def _objects(record: Record, field: str) -> list[Record]:
    value = record.get(field)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{field!r} is no list of objects")
    return value


def _tools(record: Record) -> list[Record]:
    """Function definitions, which some write as JSON inside a string."""
    tools = record.get("tools") or []
    tools = _json(tools) if isinstance(tools, str) else tools
    return _objects({"tools": tools or []}, "tools")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{text[:60]!r} is no JSON: {error}") from None


def unreadable(where: Path, what: str, error: DataError) -> DataError:
    """That the record at `where` is no `what`, and why, in whole sentences."""
    why = str(error)
    end = "" if why.endswith((".", "?")) else "."
    return DataError(f"{where} is no {what}: {why}{end} Bring it into a known shape, or take it out.")
