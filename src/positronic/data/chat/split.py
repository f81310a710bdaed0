"""Training and held-out conversations of one source, with nothing in common.

    a conversation is held out where  int(sha256(what is said)[:8]) mod one_in = 0

Equal conversations fall on the same side, wherever they stand. Where the rule would hold out none or all of them, the
one of the smallest hash is held out alone, and none if there is no other.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from positronic.data.sources.documents import Source
from positronic.data.sources.split import ONE_IN, check_one_in, side_fingerprint

__all__ = ["ChatPart", "ChatSplit"]


class Said(Protocol):
    """A conversation, or a pair of them."""

    @property
    def text_hash(self) -> int: ...


Kind = TypeVar("Kind", bound=Said, covariant=True)


class ChatSplit(Generic[Kind]):
    """The two sides of a source of conversations or of pairs. `one_in=None` holds nothing out."""

    def __init__(self, source: Source[Kind], one_in: int | None = ONE_IN):
        check_one_in(one_in)
        self.source, self.one_in = source, one_in
        self.train: ChatPart[Kind] = ChatPart(self, held_out=False)
        self.held_out: ChatPart[Kind] = ChatPart(self, held_out=True)

    @cached_property
    def hashes(self) -> frozenset[int]:
        """Of the conversations held out; reads the source once."""
        if self.one_in is None:
            return frozenset()
        everything = {conversation.text_hash for conversation in self.source}
        found = {value for value in everything if value % self.one_in == 0}
        if len(found) in (0, len(everything)):
            found = {min(everything)} if len(everything) > 1 else set()
        return frozenset(found)


class ChatPart(Generic[Kind]):
    """One side of a split: itself such a source."""

    def __init__(self, split: ChatSplit[Kind], held_out: bool):
        self._split, self._held_out = split, held_out
        self.name = split.source.name

    @property
    def fingerprint(self) -> str:
        """Of the source, the rule and the side."""
        return side_fingerprint(self._split.source.fingerprint, self._split.one_in, self._held_out)

    def __iter__(self) -> Iterator[Kind]:
        hashes = self._split.hashes
        return (each for each in self._split.source if (each.text_hash in hashes) == self._held_out)
