"""Rows out of shards: what a row holds, that documents stay apart, that conversations stay whole."""

import json

import numpy as np
import pytest
import torch

from positronic.data import ChatRows, Mixture, TextRows, Weighted, open_source, tokenise
from positronic.data.tokens.encode import Encoded
from positronic.data.tokens.pack import best_fit
from positronic.data.tokens.shards import shard
from positronic.errors import DataError


@pytest.fixture
def text_rows(put, tokenizer, tmp_path):
    def make(*texts, seq_len=8):
        source = open_source(put("t.json", json.dumps(texts)))
        return TextRows(tokenise(source, tokenizer, cache=tmp_path / "cache"), seq_len)

    return make


class Talks:
    """A source that is asked only for its fingerprint."""

    name = "talks"

    def __init__(self, *lengths):
        self.lengths, self.fingerprint = lengths, str(lengths)

    def encoded(self):
        """Conversation i is [i, i, ..., 256]; from its third token on, all but the end carry loss."""
        for i, n in enumerate(self.lengths):
            counted = np.arange(n) >= 2
            counted[-1] = False
            yield Encoded(np.array([i] * (n - 1) + [256]), n - 1, counted)


@pytest.fixture
def chat_rows(tokenizer, tmp_path):
    def make(*lengths, seq_len=9):
        talks = Talks(*lengths)
        return ChatRows(shard(talks, "chat", tokenizer, talks.encoded, cache=tmp_path / "cache"), seq_len)

    return make


def test_rows_are_windows_that_overlap_by_one_token(text_rows):
    rows = text_rows("abcdefghij", "klmnopqrst", "uvw")
    stream = np.concatenate([rows.shard.tokens])
    assert rows.n_rows == (len(stream) - 1) // 8 == 3
    ids = rows.read(np.arange(3)).ids
    assert all(np.array_equal(ids[i], stream[8 * i : 8 * i + 9]) for i in range(3))


def test_an_epoch_counts_every_token_but_the_first_and_the_rest(text_rows, tokenizer):
    rows = text_rows("abcdefghij", "klm äöü", "uvwxyz")
    batch = Mixture([Weighted(rows)], tokenizer).next(rows.n_rows)
    counted = sorted(batch.targets.flatten().tolist())
    assert counted == sorted(rows.shard.tokens[1 : 1 + 8 * rows.n_rows].tolist())
    assert batch.n_bytes == sum(token != 256 for token in counted)


def test_documents_never_share_a_segment(text_rows, tokenizer):
    rows = text_rows(*("ab" * n for n in range(1, 12)), seq_len=16)
    batch = Mixture([Weighted(rows)], tokenizer).next(rows.n_rows)
    ends = (batch.tokens == 256).long()
    assert torch.equal(batch.segments, 2 * (ends.cumsum(1) - ends) + ends)  # twice the ends before, and an end is odd
    assert int(batch.segments.max()) > 0


def test_text_shorter_than_one_row_says_what_to_do(text_rows, tokenizer):
    rows = text_rows("abc", seq_len=8)
    with pytest.raises(DataError, match=r"t.json has 4 tokens.*--seq-len 8 needs 9. Give more text, or a smaller"):
        Mixture([Weighted(rows)], tokenizer)


def test_conversations_stand_whole_in_rows_and_the_rest_is_padding(chat_rows, tokenizer):
    lengths = (4, 9, 4, 6, 10, 5, 4, 7)
    rows = chat_rows(*lengths)
    batch = Mixture([Weighted(rows)], tokenizer).next(rows.n_rows)
    whole = rows.read(np.arange(rows.n_rows))
    for i, n in enumerate(lengths):
        (row, *others) = {int(r) for r in np.argwhere((whole.ids == i) & whole.real)[:, 0]}
        assert not others
        assert int(((whole.ids[row] == i) & whole.real[row]).sum()) == n - 1
    assert batch.valid is not None
    assert torch.equal(batch.segments < 0, ~batch.valid)
    assert not bool((batch.loss_mask & ~batch.valid).any())
    assert rows.notes["truncated"] == rows.notes["dropped"] == 0


def test_only_the_marked_tokens_carry_loss(chat_rows, tokenizer):
    lengths = (4, 9, 3, 6, 10, 5)
    rows = chat_rows(*lengths)
    batch = Mixture([Weighted(rows)], tokenizer).next(rows.n_rows)
    useful = [n for n in lengths if n > 3]  # of three tokens none is marked
    assert rows.notes["dropped"] == 1
    assert batch.n_targets == sum(n - 3 for n in useful)
    assert 256 not in batch.targets[batch.loss_mask]


def test_a_conversation_longer_than_a_row_loses_its_end_and_is_counted(chat_rows):
    rows = chat_rows(25, 4)
    assert rows.notes["truncated"] == 1
    longest = rows.read(np.array([0]))
    assert longest.ids.tolist() == [[0] * 10]
    assert rows.n_tokens == 14


def test_packing_fills_rows_and_uses_each_conversation_once():
    lengths = np.random.default_rng(0).integers(1, 65, 3000)
    rows = best_fit(lengths, np.arange(3000), 64)
    assert sorted(document for row in rows for document in row) == list(range(3000))
    assert all(lengths[row].sum() <= 64 for row in rows)
    assert len(rows) <= -(-lengths.sum() // 64) * 1.02


def test_text_and_conversations_mix_in_one_stream(text_rows, chat_rows, tokenizer):
    mixture = Mixture([Weighted(text_rows("abc" * 40), 0.25), Weighted(chat_rows(7, 8, 9, seq_len=8), 0.75)], tokenizer)
    batch = mixture.next(8)
    running = batch.valid.all(1) & batch.loss_mask.all(1)
    assert int(running.sum()) == 2
    assert mixture.describe()["sources"][1]["conversations"] == 3
