"""One small tokenizer of each kind, trained on the documentation that every Python carries."""

import pydoc_data.topics

import pytest

from positronic.text import Tokenizer, byte_tokenizer, train_bpe, train_length_max

ENGLISH = [text for name, text in sorted(pydoc_data.topics.topics.items())][:40]


@pytest.fixture(scope="session")
def english() -> list[str]:
    return ENGLISH


@pytest.fixture(scope="session")
def spike() -> Tokenizer:
    return train_length_max(ENGLISH, 1024)


@pytest.fixture(scope="session")
def spike_of_lines() -> Tokenizer:
    """Its pieces span words, so that nothing may be matched word by word."""
    return train_length_max(ENGLISH[:10], 640, within="lines")


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    return train_bpe(ENGLISH, 1024)


@pytest.fixture(scope="session", params=["spike", "spike_of_lines", "bpe", "bytes"])
def tokenizer(request) -> Tokenizer:
    return byte_tokenizer() if request.param == "bytes" else request.getfixturevalue(request.param)
