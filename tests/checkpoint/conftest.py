"""One saved checkpoint for all tests to copy, and the model it came from."""

import os
import shutil

import pytest
from checkpoint_example import small_model, training_part
from checkpoint_tokenizer import small_tokenizer

from positronic.checkpoint import save


@pytest.fixture(scope="session")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    return small_model(tokenizer.vocab_size)


@pytest.fixture(scope="session")
def saved(tmp_path_factory, model, tokenizer):
    """A checkpoint with training state. Not to be changed: `copied` is."""
    return save(tmp_path_factory.mktemp("saved") / "whole", model, tokenizer, training_part())


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, model, tokenizer):
    """The same in shards of at most 4 kB."""
    return save(tmp_path_factory.mktemp("saved") / "shards", model, tokenizer, training_part(), shard_bytes=4000)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Power does not fail in tests; that every file is forced to the disk is a test of its own."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copied")
