"""The oscillators at their smallest, trained for a moment, and text for them."""

import random

import torch

from positronic.data import TokenBatch
from positronic.models import build
from positronic.models.quazimoto import QuazimotoConfig, positronic_tiny
from positronic.text import byte_tokenizer
from positronic.train import (
    Backprop,
    Cadence,
    MuonConfig,
    NextTokenConfig,
    RunLength,
    ScheduleConfig,
    Trainer,
    pick_device,
)

TOKENS = byte_tokenizer()
WORDS = ("the", "lamp", "on", "a", "desk", "was", "lit", "and", "nobody", "had", "there", "before", "we", "came", "to")
STEPS = 22


def texts(n: int, seed: int = 0, words: int = 12) -> list[str]:
    """Sentences of a few words, which are learned soon."""
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=words)) for _ in range(n)]


def small() -> QuazimotoConfig:
    """Every organ, as narrow as they go."""
    tiny = positronic_tiny()
    rings = tiny.oscillators.replace(rings=(4, 8, 16, 16))
    config = tiny.replace(d_model=48, context=32, max_positions=128, n_layers=2, oscillators=rings)
    config = config.replace(attention=config.attention.replace(head_dim=16, rank=24, rope_dims=8))
    return config.fitted(TOKENS.vocab_size, TOKENS.eot_id)


class Text:
    """A `BatchSource` of rows cut from sentences."""

    def __init__(self, seed: int, length: int):
        self.ids = torch.tensor([t for text in texts(400, seed) for t in (TOKENS.eot_id, *TOKENS.encode(text))])
        self.drawn, self.length = random.Random(seed), length

    def next(self, rows: int) -> TokenBatch:
        places = [self.drawn.randrange(len(self.ids) - self.length - 1) for _ in range(rows)]
        cut = torch.stack([self.ids[at : at + self.length + 1] for at in places])
        spelled = torch.ones(TOKENS.vocab_size, dtype=torch.long)
        return TokenBatch.of(cut, boundary_id=TOKENS.eot_id, spelled_bytes=spelled)

    def position(self):
        return {}

    def seek(self, position):
        raise NotImplementedError

    def describe(self):
        return {}


def trained(seed: int = 0, steps: int = STEPS, config=None, lr: float = 5e-3, only=lambda name: True):
    """A model after a few steps that move the parameters named by `only`, and the trainer's record."""
    torch.manual_seed(seed)
    model = build(config or small(), seed, tokenizer=TOKENS)
    for name, p in model.named_parameters():
        p.requires_grad_(only(name))
    optimizers = MuonConfig(lr=lr).build(model)
    model.requires_grad_(True)
    device = pick_device("cpu")
    trainer = Trainer(
        model,
        NextTokenConfig().build(),
        Backprop(optimizers, device, clip=1.0),
        Text(seed, model.config.context),
        [],
        length=RunLength(ScheduleConfig(warmup=4), steps=steps),
        cadence=Cadence(rows=4, micro_rows=4),
        device=device,
    )
    trainer.run()
    return model.eval(), trainer.snapshot()
