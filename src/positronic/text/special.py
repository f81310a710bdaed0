"""The 128 control tokens: what text can never spell, always the last 128 ids of a vocabulary.

Only our own renderer (`text.chat`, `Tokenizer.special`) places them. In text that a user typed, `<|im_end|>` is ten
characters like any others. Where another program renders a chat and encodes it whole, marks that stand for nothing keep
it so: the chat template writes them into texts, and the `tokenizer.json` that is saved takes them out again.
"""

import re

from positronic.text.encode_stream import utf8

__all__ = [
    "APART",
    "CONTROL_TOKENS",
    "ITSELF",
    "LONGEST_WORD",
    "MARK",
    "NOTHING",
    "N_CONTROL",
    "without_control_names",
]

N_CONTROL = 128
LONGEST_WORD = 256
"""Bytes of a word from which a vocabulary is learned as a whole; longer ones are counted in parts of so many."""

_NAMED = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<think>",
    "</think>",
    "<begin_solution>",
    "<end_solution>",
    "<tool_call>",
    "<tool_response>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
)

CONTROL_TOKENS: tuple[str, ...] = (*_NAMED, *(f"<|reserved_{i}|>" for i in range(N_CONTROL - len(_NAMED))))
"""In the order of their ids: the k-th of them has id `vocab_size - 128 + k`."""


MARK = "\ufdd0"
"""Begins each mark: a code point that is no character and stands in no text but such as means to."""
NOTHING, ITSELF, APART = MARK + "\ufdd1", MARK + "\ufdd2", MARK + "\ufdd3"
"""Inside a control token's name, so that it is text; for MARK in a text; between a header's newline and a text that
begins with white space, which are encoded apart."""


def without_control_names(text: str | bytes) -> list[bytes]:
    """What stands between the names of control tokens in a text, as bytes: what a vocabulary may learn from."""
    return _NAME.split(utf8(text) if isinstance(text, str) else text)


_NAME = re.compile(b"|".join(re.escape(name.encode()) for name in CONTROL_TOKENS))
