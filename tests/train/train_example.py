"""A model of a few thousand weights, a stream without files, and a loop around both."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from positronic.data import TokenBatch
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.colony import ColonyConfig
from positronic.mixers.experts import ExpertsConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.mycel import MycelConfig
from positronic.models.transformer import TransformerConfig
from positronic.train import Backprop, Cadence, NextTokenConfig, RunLength, ScheduleConfig, Trainer
from positronic.train.device import pick_device
from positronic.train.optimizers import AdamWConfig, OptimizerConfig
from positronic.train.parallel import ALONE, Ranks

W, T, EOT = 48, 16, 0


def small_config(vocab_size: int = W, context: int = T) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=32,
        context=context,
        max_positions=4 * context,
        n_layers=2,
        boundary_id=EOT,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=16, rank=24, rope_dims=8),
        channel=SwiGLUConfig(hidden=48),
    )


def with_experts(seed: int = 1, vocab_size: int = W, context: int = T):
    """A model in which experts stand twice."""
    experts = ExpertsConfig(experts=4, hidden=16)
    config = MycelConfig(
        vocab_size=vocab_size,
        d_model=32,
        context=context,
        n_layers=1,
        boundary_id=EOT,
        attention=small_config().attention,
        colony=ColonyConfig(tips=6, centres=3),
        refiners=(experts, experts),
    )
    return build(config, seed)


class Stream:
    """A `BatchSource` of learnable noise: row k is a walk over the vocabulary drawn from Philox stream k."""

    def __init__(
        self, seed: int = 0, padded: bool = False, masked: bool = False, vocab_size: int = W, seq_len: int = T
    ):
        self.seed, self.padded, self.masked = seed, padded, masked
        self.vocab_size, self.seq_len, self.taken = vocab_size, seq_len, 0

    def next(self, rows: int) -> TokenBatch:
        windows = torch.stack([self._row(self.taken + i) for i in range(rows)])
        real = counted = None
        if self.padded:
            lengths = torch.tensor([3 + (self.taken + i) * 5 % (self.seq_len - 2) for i in range(rows)])
            real = torch.arange(self.seq_len + 1) < lengths[:, None]
        if self.masked:
            counted = torch.arange(self.seq_len + 1).expand(rows, -1) % 3 > 0
        self.taken += rows
        return TokenBatch.of(
            windows, counted, real, boundary_id=EOT, spelled_bytes=torch.ones(self.vocab_size, dtype=torch.long)
        )

    def position(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def seek(self, position: Mapping[str, Any]) -> None:
        self.taken = position["taken"]

    def describe(self) -> dict[str, Any]:
        return {"rows_taken": self.taken}

    def _row(self, k: int) -> torch.Tensor:
        draws = np.random.Generator(np.random.Philox(key=[self.seed, k])).integers(1, 4, self.seq_len + 1)
        return torch.from_numpy((draws.cumsum() + 5 * k) % self.vocab_size)


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.checkpoints: list[dict[str, Any]] = []

    def step(self, event) -> None:
        self.steps.append(dict(event))

    def evaluation(self, event) -> None:
        self.evaluations.append(dict(event))

    def checkpoint(self, event) -> None:
        self.checkpoints.append(dict(event))

    def close(self) -> None:
        pass

    def timeless(self) -> list[dict[str, Any]]:
        """Step events without what a clock said."""
        return [{k: v for k, v in e.items() if k not in ("seconds", "tokens_per_s", "left_s")} for e in self.steps]


def trainer(
    *,
    optimizer: OptimizerConfig | None = None,
    objective: NextTokenConfig | None = None,
    schedule: ScheduleConfig | None = None,
    stream: Stream | None = None,
    rows: int = 8,
    micro_rows: int = 8,
    steps: int = 12,
    minutes: float | None = None,
    clip: float = 1.0,
    ranks: Ranks = ALONE,
    model=None,
    **settings,
) -> tuple[Trainer, Recorder]:
    torch.manual_seed(0)
    model = build(small_config(), seed=1) if model is None else model
    device = pick_device("cpu")
    recorder = Recorder()
    optimizers = (optimizer or AdamWConfig(lr=1e-2)).build(model)
    made = Trainer(
        model,
        (objective or NextTokenConfig()).build(),
        Backprop(optimizers, device, clip=clip, ranks=ranks),
        stream or Stream(),
        [recorder],
        length=RunLength(schedule or ScheduleConfig(warmup=3), steps=steps, minutes=minutes),
        cadence=Cadence(rows=rows, micro_rows=micro_rows),
        device=device,
        ranks=ranks,
        **settings,
    )
    return made, recorder
