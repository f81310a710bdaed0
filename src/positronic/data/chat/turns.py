"""One turn of a conversation, in the forms in which turns are published.

    {role, content}     as OpenAI has it: content is text or typed parts; reasoning_content, tool_calls
    {from, value}       sharegpt: human, gpt, observation, function_call (whose value is JSON of the call or the calls)

Names of roles may stand in either. What says whether a turn is learned from is read (`loss_flags.py`); what says when,
by which id or by which model a turn was made is passed over; another field that is not empty is refused by its name.
An assistant whose content is null, and who does nothing else, has said nothing: nothing is learned from that turn.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from positronic.data.chat.loss_flags import FLAGS, learned
from positronic.errors import DataError
from positronic.text import Message, shown

__all__ = ["Record", "check_depth", "from_json", "objects", "text_of", "turns"]

Record = Mapping[str, Any]
DEEPEST = 100
"""Levels of objects and lists that a record may have, and JSON inside its texts."""
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "tool_response": "tool",
    "function": "tool",
    "observation": "tool",
}
PASSED_OVER = ("id", "language", "model", "timestamp")
PARTS = ("text", "reasoning", "tool_call")


def turns(record: Record, field: str) -> list[Message]:
    """The turns that stand in a field."""
    return [_turn(part) for part in objects(record, field)]


def _turn(part: Record) -> Message:
    named = [name for name in ("role", "from") if name in part]
    said = [name for name in ("content", "value") if name in part]
    if len(named) != 1 or len(said) > 1:
        raise DataError(
            f"a turn has the fields {', '.join(part) or 'none'}; it has role and content, or from and value"
        )
    role = text_of(part, named[0])
    if role not in ROLES:
        raise DataError(f"{named[0]!r} is {shown(role)}; known are {', '.join(ROLES)}")
    fields = {name: value for name, value in part.items() if name not in (*FLAGS, *PASSED_OVER, "from", "value")}
    fields["role"] = ROLES[role]
    flag = learned(part, f"a message of the {fields['role']}")
    if flag is not None and fields["role"] == "assistant":
        fields["loss"] = flag[1]
    elif flag is not None and flag[1]:
        raise DataError(f"a message of the {role} has {flag[0]} {part[flag[0]]}; only an assistant's are learned from")
    if "from" in part or "value" in part or role == "function_call":
        fields["content"] = text_of(part, said[0] if said else "value")
    if role == "function_call":
        calls = from_json(fields.pop("content"))
        fields["tool_calls"] = calls if isinstance(calls, list) else [calls]
    elif isinstance(part.get("content"), list):
        fields |= _parts(part)
    message = Message.from_dict(fields)
    mute = not said and message == Message("assistant")
    return replace(message, loss=False) if mute else message


def _parts(part: Record) -> dict[str, Any]:
    """The fields that typed parts of a content make."""
    found: dict[str, list[str]] = {kind: [] for kind in PARTS}
    for piece in objects(part, "content"):
        kind = piece.get("type", "text")
        if kind not in PARTS:
            raise DataError(f"a message has a part of type {shown(kind)}; types known are {', '.join(PARTS)}")
        others = [name for name, value in piece.items() if name not in ("type", "text", "value") and value != []]
        if others:
            raise DataError(f"a part of a message has a field {shown(others[0])}, which is not known; take it out")
        found[kind].append(text_of(piece, "value" if "value" in piece else "text"))
    made: dict[str, Any] = {"content": "".join(found["text"])}
    if found["reasoning"]:
        made["think"] = "\n".join(found["reasoning"])
    if found["tool_call"]:
        made["tool_calls"] = [from_json(call) for call in found["tool_call"]]
    if twice := [name for name in made if name != "content" and part.get(name)]:
        raise DataError(f"a message has {twice[0]} both as a field and as a part of its content")
    return made


def text_of(record: Record, field: str) -> str:
    """What stands in a field, which must be text."""
    value = record.get(field)
    if not isinstance(value, str):
        raise DataError(f"{field!r} is {'missing' if value is None else type(value).__name__}, and not text")
    return value


def objects(record: Record, field: str) -> list[Record]:
    """The objects of a list, each without its fields that are null."""
    value = record.get(field)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{field!r} is no list of objects")
    return [{name: inner for name, inner in item.items() if inner is not None} for item in value]


def from_json(text: str) -> Any:
    """What JSON inside a text says."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown(text)} is no JSON: {error}") from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Refuse what is nested so deeply that walking through it could run out of stack."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inside = [item for item in level if isinstance(item, dict | list)]
        if not inside:
            return
        level = [inner for item in inside for inner in (item.values() if isinstance(item, dict) else item)]
    raise DataError(f"objects and lists stand more than {DEEPEST} deep in each other")
