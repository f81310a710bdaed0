"""Documents -> token shards -> rows -> a weighted mixture: everything between a file on disk and a `TokenBatch`."""

from positronic.data.batches.batch import BatchSource, TokenBatch
from positronic.data.batches.corpus import (
    chat_mixture,
    heldout_conversations,
    heldout_documents,
    heldout_pairs,
    pair_mixture,
    text_mixture,
)
from positronic.data.batches.mixture import Mixture
from positronic.data.chat.conversations import NAMES, UNFILLED, ChatFiles, Conversation, open_chats
from positronic.data.chat.preferences import Pair, PairFiles, open_pairs
from positronic.data.chat.split import ChatSplit
from positronic.data.sources.documents import DataSpec, Document, Source, open_source
from positronic.data.sources.files import cache_folder
from positronic.data.sources.hub import HubSet
from positronic.data.sources.split import Split, excerpt
from positronic.data.tokens.pack import ChatRows, TextRows
from positronic.data.tokens.rows import Rows, Weighted
from positronic.data.tokens.shards import Counts, Shard, tokenise

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
