"""Encoding text that comes in parts, cut anywhere: the ids of all parts are those of the whole.

    feed(p_1) + feed(p_2) + ... + finish()  =  encode(p_1 p_2 ...)

`feed` gives every id that no continuation can change, and holds back the bytes of the others:

    spike   at most 15 bytes, the longest piece but one byte. A match is certain unless what is left from its first
            byte on begins a longer piece. Words need no more: a piece within words ends at their borders by itself.
    bpe     the words that end within the last two characters: the last, and the one before a last of one character.
            Where GPT-2's expression ends a word is decided by two characters behind it at most ("'r" may become "'re";
            spaces leave their last to the word behind). A word has no longest, so neither has what is held.
            Other programs' expressions may look as far as they like: with one of these all is held to the end.
    bytes   nothing.

Bytes that are not UTF-8 are ids like any others, but not for BPE, which merges all of the text as one word where one
byte of it is not: that is known at the end alone, and `feed` raises `TokenizerError`.

Cost     of a part, what encoding it and the held bytes costs: fed byte by byte, up to 16 times that of the whole for
         length-max, and for BPE as many times as a word has bytes.
"""

import codecs
from collections.abc import Callable, Sequence
from typing import final

from positronic.errors import TokenizerError

__all__ = ["StreamEncoder", "Words", "all_bytes", "utf8"]


@final
class StreamEncoder:
    """Encodes text as it comes. A part is text, or bytes cut anywhere, also inside a character."""

    def __init__(self, certain: Callable[[bytes], tuple[list[int], int]], rest: Callable[[bytes], list[int]]):
        """certain(data): the first ids of `data` that stand whatever follows, and the bytes they spell; rest: all."""
        self._certain, self._rest = certain, rest
        self._held = b""

    def feed(self, part: str | bytes) -> list[int]:
        """The ids that this part makes certain; never a control token, whatever the text spells."""
        held = self._held + (utf8(part) if isinstance(part, str) else part)
        ids, n_bytes = self._certain(held)
        self._held = held[n_bytes:]
        return ids

    def finish(self) -> list[int]:
        """The ids of what was held back, now that nothing follows; another text may begin."""
        held, self._held = self._held, b""
        return self._rest(held)


class Words:
    """BPE in parts: a word is merged when it is known to be whole."""

    def __init__(
        self,
        split: Callable[[str], Sequence[tuple[str, tuple[int, int]]]],
        merge: Callable[[Sequence[str]], list[int]],
        behind: int | None,
    ):
        """split(text): each word in the byte-level alphabet and its place in `text`; merge(words): their ids;
        behind: how many characters behind a word decide where it ends, None: nobody knows."""
        self._split, self._merge, self._behind = split, merge, behind

    def certain(self, data: bytes) -> tuple[list[int], int]:
        if self._behind is None:
            return [], 0
        text = _text(data, whole=False)
        words = [(word, end) for word, (_, end) in self._split(text) if end + self._behind <= len(text)]
        n_bytes = len(text[: words[-1][1]].encode()) if words else 0
        return self._merge([word for word, _ in words]), n_bytes

    def rest(self, data: bytes) -> list[int]:
        return self._merge([word for word, _ in self._split(_text(data, whole=True))])


def all_bytes(data: bytes) -> tuple[list[int], int]:
    """Plain bytes are certain at once."""
    return list(data), len(data)


def utf8(text: str) -> bytes:
    """The bytes of `text`; half a surrogate pair raises `TokenizerError`."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"Character {error.start} of the text is half of a surrogate pair, which no UTF-8 spells; "
            f"decode the input with errors='replace'."
        ) from None


def _text(data: bytes, whole: bool) -> str:
    """The characters of `data`; unless it is the whole, without one that is cut at its end."""
    try:
        return codecs.utf_8_decode(data, "strict", whole)[0]
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"The stream holds the byte {data[error.start]:#x} where UTF-8 has none, and BPE merges such text as one "
            f"word from its beginning; gather all of it and use encode_bytes."
        ) from None
