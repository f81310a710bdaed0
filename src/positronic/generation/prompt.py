"""What a user asks, as tokens: text to continue, or messages to answer."""

from collections.abc import Mapping, Sequence

from positronic.errors import GenerationError
from positronic.text import Tokenizer

__all__ = ["Message", "prompt_ids", "stop_reasons"]

Message = Mapping[str, str]


def prompt_ids(
    tokenizer: Tokenizer,
    prompt: str | Sequence[Message],
    before: Sequence[int],
    *,
    system: str | None,
    think: bool,
) -> list[int]:
    """The new tokens of a request that goes on from `before`."""
    if isinstance(prompt, str):
        if system is not None or think:
            raise GenerationError("system and think belong to chat; give messages: [{'role': 'user', 'content': ...}].")
        return tokenizer.encode(prompt) or ([] if before else [tokenizer.eot_id])
    raise GenerationError("chat")


def stop_reasons(tokenizer: Tokenizer, prompt: str | Sequence[Message]) -> dict[int, str]:
    """The tokens that end the output, and what each means: a chat turn ends at <|im_end|> too."""
    if isinstance(prompt, str):
        return {tokenizer.eot_id: "eot"}
    return {tokenizer.eot_id: "eot", tokenizer.im_end_id: "stop_token"}
