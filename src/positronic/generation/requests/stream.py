"""Tokens to text as they come: whole characters only, and nothing that may yet turn out to be a stop string."""

from collections import deque
from collections.abc import Collection, Sequence

from positronic.errors import GenerationError
from positronic.generation.requests.prompt import check_text
from positronic.text import StreamDecoder

__all__ = ["TextStream"]


class TextStream:
    """Text of one row. `hear` takes every token; what it releases is queued, one entry a token."""

    def __init__(self, decoder: StreamDecoder, stop: str | Sequence[str] = (), silent: Collection[int] = ()):
        """stop: strings that end the text and are no part of it; silent: tokens without text, such as stop tokens."""
        strings = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(strings):
            raise GenerationError("A stop string is empty and would end every text at once; leave it out.")
        for string in strings:
            check_text(string, "A stop string")
        self.decoder, self.stop, self.silent = decoder, strings, frozenset(silent)
        self.text, self.held = "", ""
        self.released: deque[str] = deque()
        self.ended = False

    def hear(self, token: int) -> bool:
        """Take one token; whether a stop string is now complete."""
        if token not in self.silent:
            self.held += self.decoder.push(token)
        found = [at for string in self.stop if (at := self.held.find(string)) >= 0]
        if found:
            self.ended = True
            self._release(min(found))
            self.held = ""
        else:
            self._release(len(self.held) - max((_beginning(self.held, string) for string in self.stop), default=0))
        return self.ended

    def finish(self) -> None:
        """Release the rest, now that no token follows."""
        if not self.ended:
            self.held += self.decoder.finish()
            self._release(len(self.held))

    def _release(self, n: int) -> None:
        self.released.append(self.held[:n])
        self.text, self.held = self.text + self.held[:n], self.held[n:]


def _beginning(text: str, string: str) -> int:
    """Length of the longest end of `text` that `string` begins with, short of all of it."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
