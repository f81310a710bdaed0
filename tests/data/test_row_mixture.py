"""The stream of rows: one order, whatever the calls; resumable anywhere; shares exact; every row once an epoch."""

from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch

from positronic.data import Mixture, TokenBatch, Weighted
from positronic.data.batches.order import permutation, schedule
from positronic.data.tokens.rows import Windows
from positronic.errors import DataError
from positronic.state import Step

EOT = 0


class Letters:
    """A vocabulary of 64 tokens, token i spelling i bytes; token 0 ends a document."""

    eot_id = EOT
    token_bytes = tuple(b"x" * i for i in range(64))


class Table:
    """Rows whose first token says which row they are."""

    pads = False
    notes: ClassVar = {}

    def __init__(self, name: str, n_rows: int, seq_len: int = 4):
        self.name, self.fingerprint, self.seq_len, self.n_rows = name, f"hash of {name}", seq_len, n_rows
        self.n_tokens = n_rows * seq_len + 1
        self.none_because = f"has {self.n_tokens} tokens; one row of --seq-len {seq_len} needs {seq_len + 1}."

    def read(self, rows):
        ids = np.ones((len(rows), self.seq_len + 1), np.int64)
        ids[:, 0] = rows
        return Windows(ids)


def stream(sizes=(5, 3, 7), weights=(0.6, 0.3, 0.1), seed=0) -> Mixture:
    tables = [Table(f"t{i}", size) for i, size in enumerate(sizes)]
    return Mixture([Weighted(t, w) for t, w in zip(tables, weights, strict=True)], Letters(), seed=seed)


def firsts(mixture: Mixture, *calls: int) -> list[int]:
    return [int(x) for n in calls for x in mixture.next(n).tokens[:, 0]]


@pytest.mark.parametrize("calls", [(1,) * 60, (7,) * 8 + (4,), (59, 1), (2, 3, 5, 20, 30)])
def test_the_order_does_not_depend_on_how_many_rows_are_asked_for_at_once(calls):
    assert sum(calls) == 60
    assert firsts(stream(), *calls) == firsts(stream(), 60)


def test_seeking_continues_exactly_from_every_point():
    whole = firsts(stream(), 40)
    for cut in range(40):
        first, second = stream(), stream()
        first.next(cut)
        second.next(11)
        second.seek(first.position())
        assert firsts(second, 40 - cut) == whole[cut:], cut


@pytest.mark.parametrize("weights", [(1, 1), (0.6, 0.18, 0.12, 0.1), (0.97, 0.01, 0.01, 0.01), (5, 3, 1), (1,)])
def test_after_any_number_of_rows_every_share_is_exact_to_less_than_one_row(weights):
    whole = [int(Fraction(str(w)) * 100) for w in weights]
    taken = [0] * len(whole)
    for k in range(1, 600):
        schedule(whole, taken, 1)
        for n, w in zip(taken, whole, strict=True):
            assert abs(n - Fraction(k * w, sum(whole))) < 1, (k, taken)


def test_each_epoch_visits_each_row_once_and_in_another_order():
    mixture = stream(sizes=(50,), weights=(1,))
    epochs = [firsts(mixture, 50) for _ in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_without_weights_all_sources_end_their_epochs_together():
    mixture = stream(sizes=(5, 3, 7), weights=(None, None, None))
    mixture.next(15)
    assert mixture.position()["taken"] == [5, 3, 7]


def test_the_seed_changes_the_order_and_nothing_else_does():
    assert firsts(stream(seed=1), 30) != firsts(stream(seed=2), 30)
    assert firsts(stream(seed=1), 30) == firsts(stream(seed=1), 30)


def test_the_order_is_this_one_for_ever():
    """A change here breaks the resumption of every run ever begun; raise `ORDER` if it must be."""
    assert permutation(seed=0, source=0, epoch=0, n=8).tolist() == FIRST_ORDER


FIRST_ORDER = [3, 4, 1, 2, 7, 0, 5, 6]


def test_another_stream_is_refused_and_the_difference_named():
    position = stream(seed=3).position()
    with pytest.raises(DataError, match=r"seed 3 there, 0 here.*start a new run"):
        stream().seek(position)
    with pytest.raises(DataError, match="sources"):
        stream(sizes=(5, 3), weights=(1, 2)).seek(stream().position())
    with pytest.raises(DataError, match="damaged"):
        stream().seek({**stream().position(), "taken": [1, -1, 0]})


def test_a_source_too_short_for_one_row_says_how_much_is_missing():
    with pytest.raises(DataError, match=r"tiny has 1 tokens.*--seq-len 4 needs 5"):
        Mixture([Weighted(Table("tiny", 0))], Letters())


def test_weights_for_some_and_not_for_others_are_refused():
    with pytest.raises(DataError, match="t1 has no weight"):
        stream(sizes=(5, 3), weights=(0.5, None))
    with pytest.raises(DataError, match="positive"):
        stream(sizes=(5, 3), weights=(0.5, 0))


def test_a_batch_splits_into_rows_that_add_up():
    batch = stream().next(10)
    parts = [batch.rows(slice(i, i + 3)) for i in range(0, 10, 3)]
    assert torch.equal(torch.cat([p.tokens for p in parts]), batch.tokens)
    assert sum(p.n_bytes for p in parts) == batch.n_bytes
    assert sum(p.n_targets for p in parts) == batch.n_targets == 40


def test_bytes_are_those_of_the_counted_targets():
    windows = torch.tensor([[5, 3, 2, EOT, 7], [5, 3, 2, 9, 9]])
    counted = torch.tensor([[True, True, False, True, True], [True, True, True, False, False]])
    real = torch.tensor([[True, True, True, True, True], [True, True, True, False, False]])
    spelled = torch.arange(10)
    batch = TokenBatch.of(windows, counted, real, boundary_id=EOT, spelled_bytes=spelled)
    assert batch.row_bytes.tolist() == [3 + 0 + 7, 3 + 2]
    assert batch.n_targets == 5


def test_documents_and_padding_are_cut_as_a_step_cuts_them():
    windows = torch.tensor([[5, EOT, 2, EOT, 7, 8], [5, EOT, 2, EOT, 9, 9]])
    real = torch.tensor([[True] * 6, [True, True, True, True, False, False]])
    batch = TokenBatch.of(windows, real=real, boundary_id=EOT)
    assert batch.segments.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, -1]]
    assert batch.loss_mask.tolist() == [[True] * 5, [True, True, True, False, False]]
    step = Step.of(batch.tokens, options=batch.options())
    first = step.segments[:, :, None] == step.segments[:, None]
    assert torch.equal(first, batch.segments[:, :, None] == batch.segments[:, None])
