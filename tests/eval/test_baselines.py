"""Baselines, worked by hand where a hand can."""

import math

import pytest

from positronic.errors import DataError
from positronic.eval import baselines
from positronic.text.tokenizer import byte_tokenizer


def test_a_unigram_of_one_training_token_is_known_by_hand():
    """Training text `aaa`: p(a) = 4 / (3 + W), p(b) = 1 / (3 + W)."""
    tokenizer = byte_tokenizer()
    found = baselines(tokenizer, ["a", "b"], ["aa", "a"])
    w = tokenizer.vocab_size
    assert found.unigram == pytest.approx((math.log2((3 + w) / 4) + math.log2(3 + w)) / 2)


def test_compressors_find_repetition():
    found = baselines(byte_tokenizer(), ["the same words again. " * 500], ["anything"])
    assert found.gzip < 0.2
    assert found.xz < 0.2


def test_no_text_is_refused():
    with pytest.raises(DataError, match="held-out"):
        baselines(byte_tokenizer(), [""], ["abc"])
