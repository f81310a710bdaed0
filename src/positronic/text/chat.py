"""The chat form: messages to tokens and a loss mask, for training and serving alike. `text.reply` reads it back.

    turn        <|im_start|> HEADER \\n TEXT <|im_end|> \\n
    header      <|system|> or <|user|> or <|assistant|> or <tool_response>
    assistant   [ <think> \\n think \\n </think> \\n ] content [ <begin_solution> solution <end_solution> ]
                { <tool_call> {"name": ..., "arguments": {...}} }
    tools       in the system turn, behind its text and an empty line: "Tools:", then one JSON object a line
    generation  starts after <|im_start|> <|assistant|> \\n, or after <think> \\n where thinking is primed
    fim         <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle

Loss stands on what an assistant says and its <|im_end|>, and nowhere else. Control tokens come from the fields of a
message, never from its texts, which are encoded as untrusted. The newline behind a control token is encoded by itself:
the tokens of a prompt are the first tokens of the same chat with its answer. JSON is written as `json.dumps` does by
default, but no character is escaped that need not be.

Source   the published models; the form of tool definitions is ours.
"""

import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from positronic.config import did_you_mean
from positronic.errors import DataError
from positronic.text.tokenizer import Tokenizer

__all__ = ["STRICT_JSON", "Message", "Rendered", "Role", "ToolCall", "render", "render_fim", "shown", "with_tools"]

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """A function that the assistant wants called, and its arguments by name."""

    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def from_dict(cls, data: Any) -> "ToolCall":
        """Of `{"name", "arguments"}`, by itself or under "function"; arguments are an object, JSON of one, or null."""
        call = data["function"] if isinstance(data, Mapping) and data.get("function") is not None else data
        arguments = call.get("arguments") if isinstance(call, Mapping) else ()
        try:
            arguments = STRICT_JSON.decode(arguments) if isinstance(arguments, str) else arguments
        except (ValueError, RecursionError):
            arguments = ()
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping) or not isinstance(call.get("name"), str):
            raise DataError(f'A tool call is {shown(data)}; write {{"name": TEXT, "arguments": {{...}}}}.')
        return cls(call["name"], arguments)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": dict(self.arguments)}


@dataclass(frozen=True)
class Message:
    """One turn of a chat. Only an assistant thinks, solves and calls tools; a tool's content is its result."""

    role: Role
    content: str = ""
    think: str | None = None
    """Reasoning that precedes the content."""
    solution: str | None = None
    """The answer proper, marked as such; follows the content."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Follow all else."""
    loss: bool = True
    """Whether an assistant's turn is learned from."""

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise DataError(f"A message has role {shown(self.role)}. {did_you_mean(str(self.role), get_args(Role))}")
        for name in ("content", "think", "solution"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name == "content" or value is not None):
                raise DataError(f"The {name} of a message of the {self.role} is {shown(value)}; it must be text.")
        if not isinstance(self.tool_calls, tuple) or not all(isinstance(call, ToolCall) for call in self.tool_calls):
            raise DataError(
                f"tool_calls are {shown(self.tool_calls)}; they must be ToolCalls in a tuple, or use from_dict."
            )
        if not isinstance(self.loss, bool):
            raise DataError(f"The loss of a message is {shown(self.loss)}; it must be true or false.")
        if self.role != "assistant" and (self.think is not None or self.solution is not None or self.tool_calls):
            raise DataError(f"A message of the {self.role} has think, solution or tool_calls; only an assistant's may.")

    @classmethod
    def from_dict(cls, data: Any) -> "Message":
        """Of a plain dict `{"role", "content"}` with optional think (or reasoning_content), solution and tool_calls.

        Content may be a list of text parts. Role "tool_response" is "tool". A tool's name and tool_call_id have no
        place in the form: results follow their calls in order. Fields that are not known must be empty: null, or
        text, a list or an object with nothing in it.
        """
        if not isinstance(data, Mapping) or "role" not in data:
            raise DataError(f'A message is {shown(data)}; write {{"role": "user", "content": TEXT}}.')
        unknown = [str(key) for key, value in data.items() if key not in _FIELDS and value not in _EMPTY]
        if unknown:
            raise DataError(f"A message has a field {shown(unknown[0])}. {did_you_mean(unknown[0], _FIELDS)}")
        calls = [] if data.get("tool_calls") is None else data["tool_calls"]
        if not isinstance(calls, list | tuple):
            raise DataError(f"The tool_calls of a message are {shown(calls)}; they must be a list.")
        return cls(
            "tool" if data["role"] == "tool_response" else data["role"],
            _content(data.get("content")),
            data.get("reasoning_content") if data.get("think") is None else data["think"],
            data.get("solution"),
            tuple(ToolCall.from_dict(call) for call in calls),
            True if data.get("loss") is None else data["loss"],
        )

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` and the chat template read."""
        optional = {
            "think": self.think,
            "solution": self.solution,
            "tool_calls": [call.to_dict() for call in self.tool_calls] or None,
            "loss": None if self.loss else False,
        }
        kept = {name: value for name, value in optional.items() if value is not None}
        return {"role": self.role, "content": self.content, **kept}


class Rendered(NamedTuple):
    """Tokens of a chat, and for each whether it carries loss."""

    ids: list[int]
    loss_mask: list[bool]


class _Span(NamedTuple):
    """A control token by name, or text."""

    text: str
    control: bool
    loss: bool = False


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    generate: bool = False,
    think: bool = False,
) -> Rendered:
    """The tokens of a chat. `generate` ends it with the assistant's header, and `think` primes its thinking.

    `tools` are function definitions in OpenAI's form or bare. A system message anywhere but first raises `DataError`.
    """
    if think and not generate:
        raise DataError("think primes the reply that is to be generated; ask for generate too, or leave think out.")
    if not messages:
        raise DataError("A chat without messages cannot be rendered; give at least one.")
    if any(message.role == "system" for message in messages[1:]):
        raise DataError("A system message stands behind others; put it first.")
    ids: list[int] = []
    loss_mask: list[bool] = []
    for span in _chat(with_tools(messages, tools), generate, think):
        new = [tokenizer.special[span.text]] if span.control else tokenizer.encode(span.text)
        ids += new
        loss_mask += [span.loss] * len(new)
    return Rendered(ids, loss_mask)


def render_fim(tokenizer: Tokenizer, prefix: str, middle: str, suffix: str) -> list[int]:
    """The tokens of a text whose middle is told last. An empty middle leaves it to be generated."""
    spans = (("<|fim_prefix|>", prefix), ("<|fim_suffix|>", suffix), ("<|fim_middle|>", middle))
    return [token for name, text in spans for token in (tokenizer.special[name], *tokenizer.encode(text))]


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages with tool definitions in the system turn, which is made if there is none."""
    if not tools:
        return list(messages)
    first, rest = (messages[0], messages[1:]) if messages and messages[0].role == "system" else (None, messages)
    lines = "\n".join(["Tools:", *(_json(tool.get("function", tool)) for tool in tools)])
    return [Message("system", f"{first.content}\n\n{lines}" if first and first.content else lines), *rest]


def _chat(messages: Sequence[Message], generate: bool, think: bool) -> Iterator[_Span]:
    for message in messages:
        yield from _header(message.role)
        yield from _spoken(message)
        yield _Span("\n", False)
    if generate:
        yield from _header("assistant")
    if think:
        yield from (_Span("<think>", True), _Span("\n", False))


def _header(role: Role) -> Iterator[_Span]:
    yield from (_Span("<|im_start|>", True), _Span(_HEADERS[role], True), _Span("\n", False))


def _spoken(message: Message) -> Iterator[_Span]:
    """The text of a turn and its end."""
    loss = message.role == "assistant" and message.loss
    parts: list[tuple[str, bool]] = []
    if message.think is not None:
        parts += [("<think>", True), ("\n", False), (message.think + "\n", False), ("</think>", True), ("\n", False)]
    parts.append((message.content, False))
    if message.solution is not None:
        parts += [("<begin_solution>", True), (message.solution, False), ("<end_solution>", True)]
    for call in message.tool_calls:
        parts += [("<tool_call>", True), (_json(call.to_dict()), False)]
    yield from (_Span(text, control, loss) for text, control in (*parts, ("<|im_end|>", True)))


def _content(content: Any) -> str:
    if isinstance(content, list):
        if all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            return "".join(part["text"] for part in content)
        raise DataError("The content of a message has parts that are not text; this model reads text alone.")
    return "" if content is None else content


def _json(data: Any) -> str:
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{shown(data)} cannot be written as JSON ({error}); use objects, lists, text and numbers."
        ) from None


def shown(value: object) -> str:
    """A value for a message about it: as it is written, the middle left out where it is long."""
    return _SHORT.repr(value)


def _not_a_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
STRICT_JSON = json.JSONDecoder(parse_constant=_not_a_number)
_FIELDS = ("role", "content", "think", "reasoning_content", "solution", "tool_calls", "loss", "name", "tool_call_id")
_EMPTY: tuple[Any, ...] = (None, "", [], (), {})
_HEADERS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<tool_response>"}
