"""From what a user types after --data to a stream of rows, and to the documents that were held out of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from positronic.data.batches.mixture import Mixture
from positronic.data.chat.conversations import UNFILLED, Conversation, encode_chats, open_chats
from positronic.data.chat.preferences import Pair, encode_pairs, open_pairs
from positronic.data.chat.split import ChatPart, ChatSplit
from positronic.data.sources.documents import DataSpec, Document, open_source
from positronic.data.sources.split import ONE_IN, Split, excerpt
from positronic.data.tokens.pack import ChatRows, TextRows
from positronic.data.tokens.rows import Weighted, shares
from positronic.data.tokens.shards import Counts, shard, tokenise
from positronic.errors import DataError
from positronic.text import Tokenizer

__all__ = [
    "chat_mixture",
    "heldout_conversations",
    "heldout_documents",
    "heldout_pairs",
    "pair_mixture",
    "text_mixture",
]


def text_mixture(
    data: Sequence[str],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    seed: int = 0,
    one_in: int | None = ONE_IN,
    cache: Path | str | None = None,
    progress: Callable[[Counts], None] | None = None,
) -> Mixture:
    """The training side of `PATH[#field][:weight] ...`, tokenised (or found in the cache) and mixed."""
    return Mixture(_text_rows(data, tokenizer, seq_len, one_in, cache, progress), tokenizer, seed=seed)


def _text_rows(
    data: Sequence[str],
    tokenizer: Tokenizer,
    seq_len: int,
    one_in: int | None,
    cache: Path | str | None,
    progress: Callable[[Counts], None] | None,
) -> list[Weighted]:
    rows = []
    for spec in map(DataSpec.parse, data):
        train = Split(open_source(spec), one_in).train
        rows.append(
            Weighted(TextRows(tokenise(train, tokenizer, cache=cache, progress=progress), seq_len), spec.weight)
        )
    return rows


def chat_mixture(
    data: Sequence[str],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    seed: int = 0,
    one_in: int | None = ONE_IN,
    replay: Sequence[str] = (),
    replay_share: float = 0.02,
    names: Mapping[str, str] = UNFILLED,
    cache: Path | str | None = None,
    progress: Callable[[Counts], None] | None = None,
) -> Mixture:
    """The training side of conversations, packed whole, with `replay_share` of rows of plain text from `replay`.

    A little of the pretraining text keeps a small model from forgetting it.
    """
    if not 0 < replay_share < 1:
        raise DataError(f"The share of replayed text is {replay_share}; give a number between 0 and 1 (0.02 is usual).")
    chats = []
    for spec in map(DataSpec.parse, data):
        train = ChatSplit(open_chats(spec, names), one_in).train
        made = shard(train, "chat", tokenizer, partial(encode_chats, train, tokenizer), cache=cache, progress=progress)
        chats.append(Weighted(ChatRows(made, seq_len), spec.weight))
    if not replay:
        return Mixture(chats, tokenizer, seed=seed)
    texts = _text_rows(replay, tokenizer, seq_len, one_in, cache, progress)
    return Mixture([*shares(chats, 1 - replay_share), *shares(texts, replay_share)], tokenizer, seed=seed)


def pair_mixture(
    data: Sequence[str],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    seed: int = 0,
    one_in: int | None = ONE_IN,
    cache: Path | str | None = None,
    progress: Callable[[Counts], None] | None = None,
) -> Mixture:
    """The training side of pairs of answers, packed whole; a pair that does not fit into a row is left out."""
    rows = []
    for spec in map(DataSpec.parse, data):
        train = ChatSplit(open_pairs(spec), one_in).train
        rows.append(Weighted(_pair_rows(train, tokenizer, seq_len, cache, progress), spec.weight))
    return Mixture(rows, tokenizer, seed=seed)


def heldout_pairs(
    data: Sequence[str],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    one_in: int = ONE_IN,
    cache: Path | str | None = None,
) -> Mixture | None:
    """The pairs that `pair_mixture` does not train on, of all sources alike; None: there is none that fits a row."""
    rows = []
    for spec in map(DataSpec.parse, data):
        split = ChatSplit(open_pairs(spec), one_in)
        if split.hashes:
            rows.append(_pair_rows(split.held_out, tokenizer, seq_len, cache, None))
    found = [Weighted(some) for some in rows if some.n_rows]
    return Mixture(found, tokenizer) if found else None


def _pair_rows(
    pairs: ChatPart[Pair],
    tokenizer: Tokenizer,
    seq_len: int,
    cache: Path | str | None,
    progress: Callable[[Counts], None] | None,
) -> ChatRows:
    made = shard(pairs, "pair", tokenizer, partial(encode_pairs, pairs, tokenizer), cache=cache, progress=progress)
    return ChatRows(made, seq_len, cut=False)


def heldout_documents(data: Sequence[str], *, one_in: int = ONE_IN, budget_bytes: int | None = None) -> list[Document]:
    """The text that `text_mixture` does not train on; of each source an equal part of `budget_bytes` at most."""
    documents: list[Document] = []
    for spec in map(DataSpec.parse, data):
        share = None if budget_bytes is None else budget_bytes // len(data)
        found = excerpt(Split(open_source(spec), one_in).held_out, share)
        if not found:
            raise DataError(f"{spec.path} is too short to hold text out of it. Give more text, or separate valid text.")
        documents += found
    return documents


def heldout_conversations(
    data: Sequence[str], *, one_in: int = ONE_IN, names: Mapping[str, str] = UNFILLED
) -> list[Conversation]:
    """The conversations that `chat_mixture` does not train on."""
    found = []
    for spec in map(DataSpec.parse, data):
        found += list(ChatSplit(open_chats(spec, names), one_in).held_out)
    return found
