"""Documents -> token shards -> rows -> a weighted mixture: everything between a file on disk and a `TokenBatch`."""

from positronic.data.batch import BatchSource, TokenBatch
from positronic.data.corpus import heldout_documents, text_mixture
from positronic.data.mixture import Mixture, Rows, Weighted
from positronic.data.pack import ChatRows, TextRows
from positronic.data.shards import Counts, Shard, cache_folder, tokenise
from positronic.data.sources import DataSpec, Document, Source, open_source
from positronic.data.split import Split, excerpt

__all__ = [
    "BatchSource",
    "ChatRows",
    "Counts",
    "DataSpec",
    "Document",
    "Mixture",
    "Rows",
    "Shard",
    "Source",
    "Split",
    "TextRows",
    "TokenBatch",
    "Weighted",
    "cache_folder",
    "excerpt",
    "heldout_documents",
    "open_source",
    "text_mixture",
    "tokenise",
]
