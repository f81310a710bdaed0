"""From what a user types after --data to a stream of rows, and to the documents that were held out of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from positronic.data.encode import Encoder
from positronic.data.mixture import Mixture, Vocabulary, Weighted
from positronic.data.pack import TextRows
from positronic.data.shards import Counts, tokenise
from positronic.data.sources import DataSpec, Document, open_source
from positronic.data.split import ONE_IN, Split, excerpt
from positronic.errors import DataError

__all__ = ["heldout_documents", "text_mixture"]


class _Tokenizer(Encoder, Vocabulary, Protocol):
    """What both the shards and the mixture need."""


def text_mixture(
    data: Sequence[str],
    tokenizer: _Tokenizer,
    *,
    seq_len: int,
    seed: int = 0,
    one_in: int | None = ONE_IN,
    cache: Path | str | None = None,
    progress: Callable[[Counts], None] | None = None,
) -> Mixture:
    """The training side of `PATH[#field][:weight] ...`, tokenised (or found in the cache) and mixed."""
    sources = []
    for spec in map(DataSpec.parse, data):
        train = Split(open_source(spec), one_in).train
        rows = TextRows(tokenise(train, tokenizer, cache=cache, progress=progress), seq_len)
        sources.append(Weighted(rows, spec.weight))
    return Mixture(sources, tokenizer, seed=seed)


def heldout_documents(data: Sequence[str], *, one_in: int = ONE_IN, budget_bytes: int | None = None) -> list[Document]:
    """The text that `text_mixture` does not train on; of each source an equal part of `budget_bytes` at most."""
    documents: list[Document] = []
    for spec in map(DataSpec.parse, data):
        held_out = Split(open_source(spec), one_in).held_out
        found = list(held_out) if budget_bytes is None else excerpt(held_out, budget_bytes // len(data))
        if not found:
            raise DataError(f"{spec.path} is too short to hold text out of it. Give more text, or separate valid text.")
        documents += found
    return documents
