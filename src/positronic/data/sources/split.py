"""Training text and held-out text of one source, with nothing in common.

    a document is held out where  int(sha256(text)[:8]) mod one_in = 0        one_in = 100 holds out about 1 %

Equal texts fall on the same side, wherever they stand. A source of fewer than `one_in` documents, or one in which the
rule would hold out none or all, is cut within its documents instead: of each, the last 1 / one_in of the text, from the
paragraph (else line, else word) that begins nearest before that, but no earlier than a tenth from the end; documents
of fewer than `one_in` characters stay whole in training.
Which way is taken follows from the documents alone.
"""

import hashlib
import heapq
from collections.abc import Iterator

from positronic.data.sources.documents import Document, Source, TextFiles
from positronic.errors import DataError

__all__ = ["ONE_IN", "Part", "Split", "boundary", "check_one_in", "excerpt", "text_hash"]

ONE_IN = 100
"""One document in so many is held out."""
AT_LEAST = 16
"""Documents an excerpt is spread over, if there are so many."""
REACH = 1 << 26
"""Characters of each file that an excerpt is chosen from, or four times its budget if that is more."""


def check_one_in(one_in: int | None) -> None:
    """Refuse to hold out everything."""
    if one_in is not None and one_in < 2:
        raise DataError(f"One in {one_in} cannot be held out; give 2 or more (100 is usual), or none.")


def text_hash(text: str) -> int:
    """The first 8 bytes of the text's sha256, as a number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def boundary(text: str, low: int, high: int) -> int:
    """Where in low < i <= high a paragraph begins, else a line, else a word, else `high`; the last such place."""
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, low, high)
        if found >= 0:
            return found + len(mark)
    return high


def side_fingerprint(source: str, one_in: int | None, held_out: bool) -> str:
    """Fingerprint of one side, given its source's."""
    return hashlib.sha256(f"{'held out' if held_out else 'train'} {one_in} {source}".encode()).hexdigest()


class Split:
    """The two sides of a source. `one_in=None` holds nothing out."""

    def __init__(self, source: Source[Document], one_in: int | None = ONE_IN):
        check_one_in(one_in)
        self.source, self.one_in = source, one_in
        self.train = Part(self, held_out=False)
        self.held_out = Part(self, held_out=True)
        self._by_document: bool | None = None

    @property
    def by_document(self) -> bool:
        """Whether whole documents are held out, and not the ends of documents. Reads as far as it must, once."""
        if self._by_document is None:
            self._by_document = self._find_out()
        return self._by_document

    def _find_out(self) -> bool:
        sides: set[bool] = set()
        one_in = self.one_in or 2
        for index, document in enumerate(self.source, start=1):
            sides.add(text_hash(document.text) % one_in == 0)
            if index >= one_in and len(sides) == 2:
                return True
        return False

    def sides(self, document: Document) -> tuple[str, str]:
        """(train, held out) texts of one document; joined they are the document."""
        text = document.text
        if self.one_in is None:
            return text, ""
        if self.by_document:
            return ("", text) if text_hash(text) % self.one_in == 0 else (text, "")
        if len(text) < self.one_in:
            return text, ""
        high = len(text) - len(text) // self.one_in
        cut = boundary(text, min(high, len(text) - len(text) // 10), high)
        return text[:cut], text[cut:]


class Part:
    """One side of a split: itself a `Source`."""

    def __init__(self, split: Split, held_out: bool):
        self._split, self._held_out = split, held_out
        self.name = split.source.name

    @property
    def fingerprint(self) -> str:
        """Of the source, the rule and the side."""
        return side_fingerprint(self._split.source.fingerprint, self._split.one_in, self._held_out)

    def __iter__(self) -> Iterator[Document]:
        for document in self._split.source:
            text = self._split.sides(document)[self._held_out]
            if text.strip():
                yield Document(text, document.name)


def excerpt(documents: Source[Document], budget_bytes: int | None) -> list[Document]:
    """At most `budget_bytes` of UTF-8 out of `documents`, the same every time; None: all of them.

    The documents of the smallest hashes, as many as fill the budget, the last one cut at a paragraph. Where less than
    16 would do, 16 are taken if there are so many, and the longest of them are cut to one length. Of long files the
    beginning is read, and of each document no more is held than the budget.
    """
    if budget_bytes is None:
        return list(documents)
    kept: list[tuple[int, int, int, Document]] = []  # largest hash first: (-hash, -index, bytes, document)
    total = 0
    near = documents.first(max(REACH, 4 * budget_bytes)) if isinstance(documents, TextFiles) else documents
    for index, document in enumerate(near):
        short = Document(document.text[: budget_bytes + 1], document.name)
        size = len(short.text.encode())
        heapq.heappush(kept, (-text_hash(document.text), -index, size, short))
        total += size
        while len(kept) > AT_LEAST and total - kept[0][2] >= budget_bytes:
            total -= heapq.heappop(kept)[2]
    chosen = sorted(kept, reverse=True)
    sizes = [size for _, _, size, _ in chosen]
    if len(chosen) > AT_LEAST:
        limits = [*sizes[:-1], budget_bytes - sum(sizes[:-1])]
    else:
        limits = [_water_level(sizes, budget_bytes)] * len(chosen)
    cut = (Document(_shortened(d.text, limit), d.name) for (*_, d), limit in zip(chosen, limits, strict=True))
    return [document for document in cut if document.text.strip()]


def _water_level(sizes: list[int], budget: int) -> int:
    """The largest c with sum(min(size, c)) <= budget."""
    left = budget
    for index, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - index)
        if size > share:
            return share
        left -= size
    return max(sizes, default=0)


def _shortened(text: str, limit: int) -> str:
    """The beginning of `text`, at most `limit` bytes of it, up to a paragraph in its second half if there is one."""
    if len(text.encode()) <= limit:
        return text
    fits = text.encode()[:limit].decode(errors="ignore")
    return fits[: boundary(fits, len(fits) // 2, len(fits))]
