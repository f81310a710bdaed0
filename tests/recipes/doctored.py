"""Runs of a recipe that takes a second: honest ones, and some with something wrong inside that no config shows."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from positronic.data.sources.embedded import topics
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.transformer import TransformerConfig
from positronic.recipes import RunConfig, train_run
from positronic.text import train_bpe
from positronic.train import AdamWConfig, NextToken, ScheduleConfig, TrainConfig
from positronic.train.optimizers import Optimizers

STEPS = 150
"""That are trained, of the recipe's thousand."""
MODEL = TransformerConfig(
    d_model=32,
    context=64,
    max_positions=64,
    n_layers=2,
    attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=16, rank=None, rope_dims=8),
    channel=SwiGLUConfig(hidden=64),
)


class Recipe:
    """A text, its tokenizer, and a folder for runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.text = folder / "text.jsonl"
        texts = list(topics())
        self.text.write_text("\n".join(json.dumps({"text": text}) for text in texts), "utf-8")
        self.tokenizer = train_bpe(texts, 512)

    def config(self, seed: int) -> RunConfig:
        train = TrainConfig(
            steps=1000,
            batch_tokens=512,
            optimizer=AdamWConfig(lr=3e-3),
            schedule=ScheduleConfig(shape="cosine", warmup=100),
            seed=seed,
            evaluate_every=0,
            checkpoint_every=0,
        )
        return RunConfig(
            model=MODEL, data=(str(self.text),), train=train, valid_bytes=2000, model_seed=seed, data_seed=seed
        )

    def run(self, name: str, seed: int, *, steps: int = STEPS, config: RunConfig | None = None) -> Path:
        """The folder of a run with this seed, trained as far as `steps`."""
        out = self.folder / name
        train_run(
            config or self.config(seed),
            out,
            tokenizer=self.tokenizer,
            cache=self.folder / "cache",
            device="cpu",
            until=steps,
        )
        return out


def rate_times(factor: float):
    """Every update as if the rate were another; the metrics know nothing of it."""
    step = Optimizers.step
    return patch.object(Optimizers, "step", lambda self, scale, skip=None: step(self, scale * factor, skip))


def frozen_after(steps: int):
    """No weight moves after so many updates."""
    step, done = Optimizers.step, []

    def some(self, scale, skip=None):
        done.append(scale)
        step(self, scale if len(done) <= steps else 0.0, skip)

    return patch.object(Optimizers, "step", some)


def shuffled_labels():
    """Targets that belong to other tokens of the batch."""
    call, generator = NextToken.__call__, torch.Generator().manual_seed(0)

    def wrong(self, model, batch, counts):
        targets = batch.targets.flatten()[torch.randperm(batch.targets.numel(), generator=generator)]
        return call(self, model, replace(batch, targets=targets.view_as(batch.targets)), counts)

    return patch.object(NextToken, "__call__", wrong)
