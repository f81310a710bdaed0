"""The formats in which conversations are published, each read into messages.

A format is known by its fields; one that is null is absent, as in tables, where every row has all columns. What an
assistant writes between <think> and </think> before its answer is its thinking. What a record or a turn says about
being learned from is heeded (`loss_flags.py`). Errors say in a few words what is wrong with a record; the reader of
files (`conversations.py`) adds where it stands.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from positronic.data.chat.loss_flags import learned
from positronic.data.chat.turns import Record, check_depth, from_json, objects, text_of, turns
from positronic.errors import DataError
from positronic.text import Message, Role, ToolCall, shown, with_tools

__all__ = ["FORMATS", "from_columns", "from_record", "present", "said", "unreadable"]


@dataclass(frozen=True)
class Format:
    """A way to write a conversation down."""

    name: str
    fields: tuple[str, ...]
    """A record is of this format if it has all of these."""
    read: Callable[[Record], list[Message]]


def from_record(record: Any) -> list[Message]:
    """The messages of one json object."""
    if not isinstance(record, dict):
        raise DataError("it is no JSON object")
    record = {name: value for name, value in record.items() if value is not None}
    form = next((each for each in FORMATS if all(field in record for field in each.fields)), None)
    if form is None:
        known = "; ".join(f"{each.name} ({', '.join(each.fields)})" for each in FORMATS)
        raise DataError(
            f"its fields are {', '.join(record) or 'none'}, and the formats known are {known}; "
            f"tsv (question, answer, rationale)"
        )
    made = [_thinking(message) for message in form.read(record)]
    flag = learned(record, "it")
    if flag is not None and not flag[1]:
        made = [replace(message, loss=False) if message.role == "assistant" else message for message in made]
    _check(made)
    return made


def present(value: Any) -> Any:
    """Without what is null, at any depth: a columnar reader fills objects up to the fields of all others with nulls."""
    if isinstance(value, dict):
        return {key: present(item) for key, item in value.items() if item is not None}
    return [present(item) for item in value] if isinstance(value, list) else value


def _check(messages: list[Message]) -> None:
    """Refuse what could not be written in the chat form."""
    if any(message.role == "system" for message in messages[1:]):
        raise DataError("a system message stands behind others")
    for message in messages:
        for call in message.tool_calls:
            check_depth(call.arguments)
        try:
            json.dumps(message.to_dict(), ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"a message of the {message.role} holds half a surrogate pair, which is no character"
            ) from None
        except (TypeError, ValueError) as error:
            raise DataError(f"a tool call of the assistant cannot be written as JSON ({error})") from None


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


def _chat(field: str) -> Callable[[Record], list[Message]]:
    """Turns; the system's words may stand beside them."""

    def read(record: Record) -> list[Message]:
        beside, made = _system(record), turns(record, field)
        return with_tools(made if beside == made[:1] else [*beside, *made], _tools(record))

    return read


def _alpaca(record: Record) -> list[Message]:
    answer = _assistant(text_of(record, "output" if "output" in record else "response"))
    asked = _user(_joined(text_of(record, "instruction"), _maybe(record, "input")))
    return [*_system(record), *_history(record), asked, answer]


def _history(record: Record) -> list[Message]:
    """What was said before: pairs of question and answer, or turns."""
    history = record.get("history", [])
    if not isinstance(history, list):
        raise DataError(f"'history' is {type(history).__name__}, and no list of pairs or of turns")
    if history and all(isinstance(turn, dict) for turn in history):
        return turns(record, "history")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"'history' holds {shown(pair)}, which is no pair [question, answer] and no turn")
    return [message for asked, answered in history for message in (_user(asked), _assistant(answered))]


def _seed_task(record: Record) -> list[Message]:
    """The first instance of a task."""
    instances = objects(record, "instances")
    if not instances:
        return []
    made = _alpaca({**instances[0], "instruction": record["instruction"]})
    flag = learned(instances[0], "an instance")
    return [*made[:-1], replace(made[-1], loss=flag is None or flag[1])]


def _question(record: Record) -> list[Message]:
    """What stands before `####` is the thinking, without its calculator marks <<a*b=c>>; what follows, the solution."""
    question = _user(_joined(_maybe(record, "body"), text_of(record, "question")))
    thought, mark, solution = text_of(record, "answer").rpartition("####")
    if not mark:
        return [question, _assistant(solution)]
    thought = re.sub(r"<<[^<>]*>>", "", thought).strip()
    return [question, Message("assistant", think=thought or None, solution=solution.strip())]


def _prompt(answer: str) -> Callable[[Record], list[Message]]:
    """Both may be turns; what an assistant says in a prompt is not learned from."""

    def read(record: Record) -> list[Message]:
        asked, answered = said(record, "prompt", "user"), said(record, answer, "assistant")
        before = [replace(message, loss=False) if message.role == "assistant" else message for message in asked]
        return with_tools([*_system(record), *before, *answered], _tools(record))

    return read


def said(record: Record, field: str, role: Role) -> list[Message]:
    """What stands in a field as one turn's text, or as turns."""
    if isinstance(record.get(field), str):
        return [Message(role, record[field])]
    if not isinstance(record.get(field), list):
        raise DataError(f"{field!r} is {type(record.get(field)).__name__}, and neither text nor turns")
    return turns(record, field)


def _problem(record: Record) -> list[Message]:
    return [_user(text_of(record, "problem")), _assistant(text_of(record, "solution"))]


def _topical_chat(record: Record) -> list[Message]:
    """Two people; the one who speaks first is the user."""
    parts = objects(record, "content")
    agents = [text_of(part, "agent") for part in parts]
    roles: list[Role] = ["user" if agent == agents[0] else "assistant" for agent in agents]
    return [_told(part, role, text_of(part, "message")) for part, role in zip(parts, roles, strict=True)]


def _schema_guided(record: Record) -> list[Message]:
    """A service call is a turn of its own, its results those of a tool; then the assistant says what it says."""
    made = []
    for turn in objects(record, "turns"):
        if turn.get("speaker") == "USER":
            made.append(_told(turn, "user", text_of(turn, "utterance")))
            continue
        answer = _told(turn, "assistant", text_of(turn, "utterance"))
        for frame in objects(turn, "frames"):
            if "service_call" in frame:
                call = frame["service_call"]
                if not isinstance(call, dict):
                    raise DataError(f"'service_call' is {type(call).__name__}, and no object")
                wanted = ToolCall.from_dict({"name": call.get("method"), "arguments": call.get("parameters")})
                made.append(Message("assistant", tool_calls=(wanted,), loss=answer.loss))
                made.append(Message("tool", _result(frame.get("service_results", []))))
        made.append(answer)
    return made


def _told(turn: Record, role: Role, text: str) -> Message:
    """A turn of a dialogue that is no chat."""
    flag = learned(turn, f"a turn of the {role}")
    if role == "user" and flag is not None and flag[1]:
        raise DataError(f"a turn of the user has {flag[0]} {turn[flag[0]]}; only an assistant's are learned from")
    return Message(role, text, loss=role == "user" or flag is None or flag[1])


def _result(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(f"'service_results' cannot be written as JSON ({error})") from None


FORMATS = (
    Format("chat messages", ("messages",), _chat("messages")),
    Format("sharegpt", ("conversations",), _chat("conversations")),
    Format("chat messages", ("conversation",), _chat("conversation")),
    Format("schema-guided dialogue", ("turns",), _schema_guided),
    Format("Topical-Chat", ("content",), _topical_chat),
    Format("alpaca", ("instruction", "output"), _alpaca),
    Format("alpaca", ("instruction", "response"), _alpaca),
    Format("seed task", ("instruction", "instances"), _seed_task),
    Format("question and answer", ("question", "answer"), _question),
    Format("prompt and answer", ("prompt", "response"), _prompt("response")),
    Format("prompt and answer", ("prompt", "completion"), _prompt("completion")),
    Format("problem and solution", ("problem", "solution"), _problem),
)


def _system(record: Record) -> list[Message]:
    text = _maybe(record, "system")
    return [Message("system", text)] if text else []


def _user(text: str) -> Message:
    return Message("user", text)


def _assistant(text: str) -> Message:
    return Message("assistant", text)


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def _maybe(record: Record, field: str) -> str:
    """The text of a field that may be missing."""
    return text_of(record, field) if field in record else ""


def _tools(record: Record) -> list[Record]:
    """Function definitions, which some write as JSON inside a string; their nulls are theirs."""
    tools = record.get("tools", [])
    tools = from_json(tools) if isinstance(tools, str) and tools else tools or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("'tools' is no list of objects")
    for tool in tools:
        if not isinstance(tool.get("function", {}), dict):
            raise DataError(f"'tools' holds {shown(tool)}, whose function is no object")
    return tools


def unreadable(place: str, what: str, error: DataError) -> DataError:
    """That the record at a place is no `what`, and why, in whole sentences."""
    why = str(error)
    end = "" if why.endswith((".", "?")) else "."
    sentence = f"{place} is no {what}: {why}{end} Bring it into a known format, or take it out."
    return DataError(sentence.encode("utf-8", "backslashreplace").decode())
