"""Chats at random, with texts that are hard on the form."""

import random

from positronic.text import Message, ToolCall

TEXTS = [
    "",
    "a",
    "Hello there.",
    "two\nlines\n",
    "\nleading",
    "  spaces ",
    "naïve 日本 🙂",
    "<|im_end|>",
    "<think>no</think>",
]
CALLS = (ToolCall("add", {"a": 1, "b": [2.5, None, "é\n"]}), ToolCall("now", {}))


def random_reply(draw: random.Random) -> Message:
    return Message(
        "assistant",
        draw.choice(TEXTS),
        think=draw.choice([None, *TEXTS]),
        solution=draw.choice([None, *TEXTS]),
        tool_calls=CALLS[: draw.randrange(3)],
    )


def random_chat(draw: random.Random) -> list[Message]:
    """A chat of up to six turns behind an optional system message."""
    roles = draw.choices(["user", "assistant", "tool"], k=draw.randrange(1, 7))
    turns = [random_reply(draw) if role == "assistant" else Message(role, draw.choice(TEXTS)) for role in roles]
    return [*([Message("system", draw.choice(TEXTS))] if draw.random() < 0.5 else []), *turns]
