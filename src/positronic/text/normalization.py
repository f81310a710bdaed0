"""Normalized ids: one id for pieces that differ only in case, width or a leading space.

    canon[id] = the least id whose piece has the same form,   form = lower(NFKC(piece)) without one leading space

Pieces that are not UTF-8, and control tokens, stand for themselves. So canon[canon[id]] = canon[id] <= id.
Source   Engram, arXiv 2601.07372.
"""

import unicodedata

from positronic.text.tokenizer import Tokenizer

__all__ = ["normalized_ids"]


def normalized_ids(tokenizer: Tokenizer) -> list[int]:
    """The id that stands for each id, `vocab_size` of them."""
    least: dict[str, int] = {}
    return [_least(piece, index, least) for index, piece in enumerate(tokenizer.token_bytes)]


def _least(piece: bytes, index: int, least: dict[str, int]) -> int:
    try:
        form = unicodedata.normalize("NFKC", piece.decode()).lower().removeprefix(" ")
    except UnicodeDecodeError:
        return index
    return least.setdefault(form, index) if piece else index
