"""Flags of commands that train: what of a run's settings the user gave, laid over a run config."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from positronic.config import Config, did_you_mean, override
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.recipes import RunConfig

UNLIMITED = 10**9
"""Steps of a run that the clock ends."""

__all__ = ["Training", "TrainingFlags", "set_anywhere"]


@dataclass(frozen=True)
class Training:
    """How the weights move; what is not given keeps the run's value."""

    steps: int | None = None
    """Updates of the weights."""
    minutes: float | None = None
    """Wall time in place of steps, or with --steps for at most so many: the schedule is fitted to the speed of the
    first steps."""
    seq_len: int | None = None
    """Tokens a row; the model's context when not given."""
    batch_tokens: int | None = None
    """Tokens an update, over all processes."""
    lr: float | None = None
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] | None = None
    """adamw for everything, or muon for the trunk's matrices."""
    schedule: Literal["wsd", "cosine"] | None = None
    """What follows the warm-up."""
    warmup: int | None = None
    """Steps of warm-up."""
    seed: int | None = None
    """Of first weights, data order and everything else random."""
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """Of matrix products; auto is bfloat16 on CUDA."""
    checkpoint_every: int | None = None
    """Steps between checkpoints."""
    evaluate_every: int | None = None
    """Steps between validations."""
    deterministic: bool = False
    """CUDA: the same bits on every run, slower."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Any other setting, of the model (attention.n_heads=8) or of training (schedule.decay_share=0.3)."""

    def epochs(self, asked: float | None, usual: float) -> float | None:
        """As asked; when not, the usual number, unless steps or the clock end the run (None)."""
        timed = self.steps is not None or self.minutes is not None
        return asked if asked is not None or timed else usual

    def applied(self, run: "RunConfig") -> "RunConfig":
        """`run` with the settings that were given."""
        from positronic.train import AdamWConfig, MuonConfig

        train: Any = run.train
        plain = ("steps", "minutes", "seq_len", "batch_tokens", "precision", "checkpoint_every", "evaluate_every")
        train = replace(train, **{name: v for name in plain if (v := getattr(self, name)) is not None})
        if self.minutes is not None and self.steps is None:
            train = replace(train, steps=UNLIMITED)
        if self.optimizer is not None and self.optimizer != train.optimizer.kind:
            kind = {"adamw": AdamWConfig, "muon": MuonConfig}[self.optimizer]
            shared = {f.name: getattr(train.optimizer, f.name) for f in fields(AdamWConfig)}
            train = replace(train, optimizer=kind(**shared))
        if self.lr is not None:
            train = replace(train, optimizer=replace(train.optimizer, lr=self.lr))
        if self.schedule is not None:
            train = replace(train, schedule=replace(train.schedule, shape=self.schedule))
        if self.warmup is not None:
            train = replace(train, schedule=replace(train.schedule, warmup=self.warmup))
        if self.deterministic:
            train = replace(train, deterministic=True)
        if self.seed is not None:
            train = replace(train, seed=self.seed)
            run = replace(run, model_seed=self.seed, data_seed=self.seed)
        return set_anywhere(replace(run, train=train), self.set)


TrainingFlags = tyro.conf.OmitArgPrefixes[Training]


def set_anywhere(run: "RunConfig", settings: Sequence[str]) -> "RunConfig":
    """`name=value` on whatever part of the run has the name: the run itself, its model, or its training."""
    homes: dict[str, str] = {}
    parts: list[tuple[str, Config]] = [("train.", run.train), ("model.", run.model), ("", run)]
    for prefix, part in parts:
        homes |= {field.name: prefix for field in fields(part)}
    placed = []
    for setting in settings:
        head = setting.partition("=")[0].split(".")[0]
        if head not in homes:
            raise ConfigError(f"--set {setting}: nothing is called {head!r}. {did_you_mean(head, homes)}")
        placed.append(homes[head] + setting)
    return override(run, placed)
