"""Documents -> token shards -> rows -> a weighted mixture: everything between a file on disk and a `TokenBatch`."""

from positronic.data.batch import BatchSource, TokenBatch
from positronic.data.chat import NAMES, UNFILLED, ChatFiles, Conversation, open_chats
from positronic.data.chat_split import ChatSplit
from positronic.data.corpus import (
    chat_mixture,
    heldout_conversations,
    heldout_documents,
    heldout_pairs,
    pair_mixture,
    text_mixture,
)
from positronic.data.files import cache_folder
from positronic.data.hub import HubSet
from positronic.data.mixture import Mixture
from positronic.data.pack import ChatRows, TextRows
from positronic.data.preferences import Pair, PairFiles, open_pairs
from positronic.data.rows import Rows, Weighted
from positronic.data.shards import Counts, Shard, tokenise
from positronic.data.sources import DataSpec, Document, Source, open_source
from positronic.data.split import Split, excerpt

__all__ = [
    "NAMES",
    "UNFILLED",
    "BatchSource",
    "ChatFiles",
    "ChatRows",
    "ChatSplit",
    "Conversation",
    "Counts",
    "DataSpec",
    "Document",
    "HubSet",
    "Mixture",
    "Pair",
    "PairFiles",
    "Rows",
    "Shard",
    "Source",
    "Split",
    "TextRows",
    "TokenBatch",
    "Weighted",
    "cache_folder",
    "chat_mixture",
    "excerpt",
    "heldout_conversations",
    "heldout_documents",
    "heldout_pairs",
    "open_chats",
    "open_pairs",
    "open_source",
    "pair_mixture",
    "text_mixture",
    "tokenise",
]
