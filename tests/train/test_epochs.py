"""How long a run is that was asked for by epochs."""

import json

import pytest
from train_example import small_config

from positronic.data import chat_mixture
from positronic.recipes import RunConfig, train_run
from positronic.text import byte_tokenizer
from positronic.train import TrainConfig

ROW, ROWS = 64, 8


@pytest.mark.parametrize("epochs", [1, 3])
def test_epochs_count_conversations_and_not_the_text_replayed_beside_them(tmp_path, epochs):
    chats, text = tmp_path / "chats.json", tmp_path / "text.txt"
    chats.write_text(json.dumps([{"instruction": f"say {i}", "input": "", "output": f"A {i}."} for i in range(60)]))
    text.write_text("once upon a time " * 4000)
    run = RunConfig(
        model=small_config(context=ROW),
        data=(str(chats),),
        conversations=True,
        replay=(str(text),),
        epochs=epochs,
        train=TrainConfig(batch_tokens=ROWS * ROW, seq_len=ROW, evaluate_every=0, checkpoint_every=0),
    )
    state = train_run(run, tmp_path / "run", tokenizer=byte_tokenizer(), device="cpu", cache=tmp_path / "cache")
    mixture = chat_mixture(run.data, byte_tokenizer(), seq_len=ROW, cache=tmp_path / "cache")
    assert state.counters.step == round(epochs * mixture.sources[0].n_rows / 0.98 / ROWS)
