"""What a user asks, as tokens: text to continue, or messages to answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from positronic.errors import GenerationError
from positronic.text import Message, Tokenizer, render

__all__ = ["Prompt", "check_text", "prompt_ids", "stop_reasons", "turn_ended"]

Prompt = str | Sequence[Message | Mapping[str, Any]]
"""Text to continue, or messages to answer, each a `Message` or what `Message.from_dict` reads."""


def prompt_ids(
    tokenizer: Tokenizer,
    prompt: Prompt,
    before: Sequence[int] = (),
    *,
    system: str | None = None,
    think: bool = False,
) -> list[int]:
    """The new tokens of a request that goes on after the tokens `before` of its conversation.

    A text that begins a conversation has its vocabulary's lead in front, if there is one; an empty one starts from the
    end-of-text token. Messages are those that the conversation lacks; its last
    turn has ended (`turn_ended`), and a newline parts the two.
    """
    if isinstance(prompt, str):
        if system is not None or think:
            raise GenerationError("system and think belong to chat; give messages: [{'role': 'user', 'content': ...}].")
        check_text(prompt, "The prompt")
        ids = tokenizer.encode(prompt)
        return ids if before else [*tokenizer.lead, *ids] or [tokenizer.eot_id]
    messages = [message if isinstance(message, Message) else Message.from_dict(message) for message in prompt]
    if system is not None:
        messages = [Message("system", system), *messages]
    if before and messages and messages[0].role == "system":
        raise GenerationError("A system message comes too late in a conversation that has begun; start a new one.")
    for message in messages:
        check_text(message.content, f"The {message.role}'s message")
    ids = render(tokenizer, messages, generate=True, think=think).ids
    return [*(tokenizer.encode("\n") if before else []), *ids]


def check_text(text: str, what: str) -> None:
    """Raise unless all of `text` are characters: what was read of bytes that are not UTF-8 holds halves of some."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GenerationError(
            f"{what} is no text: behind {error.start} characters stands {text[error.start]!a}, half of one or a "
            f"byte that is not UTF-8. Give it again without."
        ) from None


def stop_reasons(tokenizer: Tokenizer, prompt: Prompt) -> dict[int, str]:
    """The tokens that end the output, and what each means: a chat turn ends at <|im_end|> too."""
    if isinstance(prompt, str):
        return {tokenizer.eot_id: "eot"}
    return {tokenizer.eot_id: "eot", tokenizer.im_end_id: "stop_token"}


def turn_ended(tokenizer: Tokenizer, before: tuple[int, ...]) -> tuple[int, ...]:
    """`before` with its last turn closed by <|im_end|>, where the model was cut off or ended the document instead."""
    if not before or before[-1] == tokenizer.im_end_id:
        return before
    return (*(before[:-1] if before[-1] == tokenizer.eot_id else before), tokenizer.im_end_id)
