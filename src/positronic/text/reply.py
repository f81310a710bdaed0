"""Replies back to messages: what a model generated, or what a data set wrote as text, by the marks of the chat form.

Tolerant, since a model may write anything: a part that was not closed ends where the next one opens, and a call that is
not JSON stays in the content.
"""

import re
from collections.abc import Iterable

from positronic.errors import DataError
from positronic.text.chat import STRICT_JSON, Message, ToolCall
from positronic.text.tokenizer import Tokenizer

__all__ = ["parse_assistant", "read_reply"]

_PARTS = {
    "<think>": "think",
    "</think>": "answer",
    "<begin_solution>": "solution",
    "<end_solution>": "content",
    "<tool_call>": "tool_call",
}
"""Part of a message that each mark opens; an answer is content behind a thought."""
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|im_start|>")


def read_reply(tokenizer: Tokenizer, ids: Iterable[int], *, think: bool = False) -> Message:
    """The message that a generated reply is; `think` if the prompt primed thinking.

    The inverse of `render` on the assistant's part of it. Control tokens without a meaning here are passed over.
    """
    names = {index: name for name, index in tokenizer.special.items()}
    parts: list[tuple[str, list[int]]] = [("think", tokenizer.encode("\n")) if think else ("content", [])]
    for index in ids:
        name = names.get(index, "")
        if name in _ENDS:
            break
        if name in _PARTS:
            parts.append((_PARTS[name], []))
        elif not name:
            parts[-1][1].append(index)
    return _assemble([(part, tokenizer.decode(run)) for part, run in parts])


def parse_assistant(text: str) -> Message:
    """The message that a trusted data set wrote as text with <think>, <begin_solution> and <tool_call> in it."""
    first, *marked = _MARK.split(text)
    opened = zip(marked[::2], marked[1::2], strict=True)
    return _assemble([("content", first), *((_PARTS[mark], part) for mark, part in opened)])


_MARK = re.compile(f"({'|'.join(map(re.escape, _PARTS))})")


def _assemble(parts: Iterable[tuple[str, str]]) -> Message:
    """The assistant's message with these parts; parts of one kind are joined."""
    content, thoughts, solutions, calls = [], [], [], []
    for part, text in parts:
        if part == "think":
            thoughts.append(text.removeprefix("\n").removesuffix("\n"))
        elif part == "solution":
            solutions.append(text)
        elif part == "tool_call":
            call, rest = _read_call(text)
            calls += [call] if call else []
            content.append(rest)
        else:
            content.append(text.removeprefix("\n") if part == "answer" else text)
    think, solution = ("\n".join(found) if found else None for found in (thoughts, solutions))
    return Message("assistant", "".join(content), think, solution, tuple(calls))


def _read_call(text: str) -> tuple[ToolCall | None, str]:
    """The call that the text begins with, and the text behind it; no call where it is not one."""
    body = text.lstrip()
    try:
        data, end = STRICT_JSON.raw_decode(body)
        return ToolCall.from_dict(data), body[end:].strip()
    except (ValueError, RecursionError, DataError):
        return None, f"<tool_call>{text}"
