"""A run on files, as a function for tests and as a program that is killed: `python killed_run.py FOLDER`."""

import sys
from pathlib import Path

import torch
from train_example import Stream, small_config

from positronic.data import Document
from positronic.eval import bits_per_byte
from positronic.models import build
from positronic.text import byte_tokenizer
from positronic.train import AdamWConfig, ScheduleConfig, TrainConfig, TrainState, start

CONFIG = TrainConfig(
    steps=30,
    batch_tokens=128,
    micro_rows=3,
    optimizer=AdamWConfig(lr=1e-2),
    schedule=ScheduleConfig(warmup=3),
    evaluate_every=8,
    checkpoint_every=4,
    checkpoint_every_s=0,
)
TOKENIZER = byte_tokenizer()
HELD_OUT = [Document("abcabcabc" * 3, "one"), Document("xyz", "two")]


def stream() -> Stream:
    return Stream(vocab_size=TOKENIZER.vocab_size, padded=True)


def validate(model):
    return bits_per_byte(model, TOKENIZER, HELD_OUT).to_json()


def begin(
    out: Path, config: TrainConfig = CONFIG, observers=(), until: int | None = None, until_saved: int | None = None
) -> TrainState:
    """until: where the plug is pulled; until_saved: where the run stops by itself."""
    model = build(small_config(TOKENIZER.vocab_size), seed=1)
    if until is not None:
        observers = [*observers, Stops(until)]
    try:
        return start(
            config,
            model=model,
            tokenizer=TOKENIZER,
            data=stream(),
            out=out,
            device="cpu",
            validate=validate,
            observers=observers,
            until=until_saved,
        )
    except Stops.Stopped:
        return None


class Stops:
    """Pulls the plug after a step."""

    class Stopped(Exception):  # noqa: N818 - no error: the plug is pulled
        pass

    def __init__(self, at):
        self.at = at

    def step(self, event):
        if event["step"] == self.at:
            raise Stops.Stopped

    def evaluation(self, event):
        pass

    def checkpoint(self, event):
        pass

    def close(self):
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    begin(Path(sys.argv[1]))
