"""On a GPU: a run that was stopped and goes on, with deterministic kernels, ends in the same bytes."""

import hashlib
from pathlib import Path

import pytest
import torch
from killed_run import CONFIG, TOKENIZER, Stops, validate
from train_example import Stream, small_config

from positronic.models import build
from positronic.train import TrainConfig, resume, start

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DETERMINISTIC: TrainConfig = CONFIG.replace(deterministic=True, steps=20, batch_tokens=2048, micro_rows=8)
CONTEXT = 128


def run(out: Path, until: int | None = None) -> str | None:
    """The digest of the weights that a run ends with; None if it was stopped after step `until`."""
    config = small_config(TOKENIZER.vocab_size, CONTEXT)
    together = {
        "data": Stream(vocab_size=TOKENIZER.vocab_size, seq_len=CONTEXT),
        "device": "cuda",
        "validate": validate,
        "observers": [] if until is None else [Stops(until)],
    }
    if (out / "last").exists():
        resume(out, DETERMINISTIC, model_config=config, **together)
    else:
        try:
            start(DETERMINISTIC, model=build(config, seed=1), tokenizer=TOKENIZER, out=out, **together)
        except Stops.Stopped:
            return None
    return hashlib.sha256((out / "last" / "model.safetensors").read_bytes()).hexdigest()


def test_a_deterministic_run_that_was_stopped_ends_in_the_same_bytes(tmp_path):
    unbroken = run(tmp_path / "unbroken")
    assert run(tmp_path / "broken", until=10) is None
    assert run(tmp_path / "broken") == unbroken
