"""Tokenizers of 387 entries: all bytes, three pieces, the control tokens."""

from positronic.text.definition import Definition
from positronic.text.tokenizer import Tokenizer


def small_tokenizer(other: bool = False) -> Tokenizer:
    """Longest match over three pieces; `other` has the same pieces under other ids."""
    pieces = (b"th", b"the", b"ing")
    return Tokenizer(Definition("spike", (*(bytes([b]) for b in range(256)), *(pieces[::-1] if other else pieces))))
