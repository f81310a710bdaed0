"""A run: one config, one folder. `start` begins it, `resume` goes on with it, `init_from` borrows another's weights.

RUN/step-00000200/ ...  RUN/last  RUN/best  RUN/metrics.jsonl  RUN/tensorboard/
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from torch import nn

from positronic.checkpoint import RunFolder, TrainingPart, load, load_training
from positronic.config import AtMost, Config, ModelConfig, diff
from positronic.data import BatchSource
from positronic.errors import CheckpointError, ConfigError
from positronic.lm import LM
from positronic.train.checkpoints import Checkpoints
from positronic.train.device import Device, compile_blocks, deterministic, pick_device, recompute_blocks
from positronic.train.objectives import UNAIDED, NextTokenConfig, Objective, ObjectiveConfig
from positronic.train.observers import MetricsFile, Observer, TensorBoard
from positronic.train.optimizers import AdamWConfig, OptimizerConfig
from positronic.train.parallel import ALONE, Ranks
from positronic.train.run_length import RunLength
from positronic.train.schedules import ScheduleConfig
from positronic.train.steppers import Backprop
from positronic.train.train_state import Cadence, TrainState, Validate
from positronic.train.trainer import Trainer

if TYPE_CHECKING:
    from positronic.text import Tokenizer

__all__ = ["TrainConfig", "held", "newest", "resume", "saved_config", "start"]

MICRO_TOKENS = {"cpu": 16_384, "mps": 16_384, "cuda": 65_536}
"""Tokens of one forward pass, at most, where nobody says how many rows."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config, kind="train"):
    """How a model is trained; beside it a run needs a model, a tokenizer and data."""

    steps: int = 2000
    """Updates of the weights; with `minutes`, the most of them."""
    minutes: float | None = None
    """Wall time in place of a number of steps: the speed of the first steps says how many fit."""
    seq_len: int | None = None
    """Tokens a row. None: the model's context."""
    batch_tokens: int = 8192
    """Tokens an update, over all processes; rounded down to whole rows."""
    micro_rows: int | None = None
    """Rows of one forward pass; what a batch has more is accumulated. None: 16,384 tokens, on CUDA 65,536."""
    objective: ObjectiveConfig = NextTokenConfig()
    """What is minimised."""
    optimizer: OptimizerConfig = AdamWConfig()
    """How the weights move, and the peak rate."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The rate's way from step to step."""
    clip: float = 1.0
    """Largest global norm of a gradient."""
    seed: Annotated[int, AtMost(2**64)] = 0
    """Of everything random that training does; the data's order and the first weights have seeds of their own."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products. auto: bfloat16 on CUDA, float32 elsewhere."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the trunk is compiled, whole or by block as it is long. auto: on CUDA."""
    recompute: bool = False
    """Keep only the blocks' inputs and run each again on the way back: less memory, a third more work."""
    deterministic: bool = False
    """CUDA: the same bits on every run, slower. The CPU always gives them at equal threads."""
    evaluate_every: int = 250
    """Steps between validations; 0: only at the start and the end."""
    checkpoint_every: int = 250
    """Steps between checkpoints; 0: only at the end and when a validation is the best so far."""
    checkpoint_every_s: float = 600.0
    """Seconds after which a checkpoint is due in any case; 0: never for that reason."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; use 1 or more.")
        for name in ("minutes", "seq_len", "micro_rows"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}; use a positive number, or leave it out.")
        for name in ("evaluate_every", "checkpoint_every", "checkpoint_every_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; use 0 for never, or a positive number.")
        if not self.clip > 0:
            raise ConfigError(f"clip is {self.clip}; use a positive number (1.0 is usual).")


def start(
    config: TrainConfig,
    *,
    model: LM,
    tokenizer: "Tokenizer",
    data: BatchSource,
    out: str | os.PathLike[str],
    device: str = "auto",
    ranks: Ranks = ALONE,
    validate: Validate | None = None,
    observers: Sequence[Observer] = (),
    helpers: Mapping[str, LM] = UNAIDED,
    until: int | None = None,
    accepted: Callable[[], None] | None = None,
) -> TrainState:
    """Train `model` (its weights are the run's first) into the new run folder `out`, to the end or to Ctrl-C.

    helpers: the models that the objective asks, by the names it declares; they are frozen. until: save and stop after
    this step, the schedule staying that of the whole run. accepted: called once nothing of the run can be refused,
    before the first step.
    """
    with held(out, ranks):
        if RunFolder(out).newest() is not None:
            raise CheckpointError(
                f"{out} already holds a run. Go on with it by --resume, or give the new run another --out."
            )
        torch.manual_seed(config.seed)
        place = pick_device(device, config.precision)
        trainer = _trainer(config, model, tokenizer, data, Path(out), place, ranks, validate, helpers)
        if accepted is not None:
            accepted()
        return _run(config, trainer, place, Path(out), observers, ranks, until)


def resume(
    out: str | os.PathLike[str],
    config: TrainConfig | None = None,
    *,
    data: BatchSource,
    model_config: ModelConfig | None = None,
    device: str = "auto",
    ranks: Ranks = ALONE,
    validate: Validate | None = None,
    observers: Sequence[Observer] = (),
    helpers: Mapping[str, LM] = UNAIDED,
    until: int | None = None,
) -> TrainState:
    """Go on with the run in `out` from its newest checkpoint, as if it had never stopped.

    A config that is given must be the run's own; None takes the run's. helpers: as in `start`. until: save and stop
    after this step.
    """
    newest(out)  # where there is none, no folder is made to be held
    with held(out, ranks):
        folder = newest(out)
        part = load_training(folder)
        saved = _config_of(part, folder)
        place = pick_device(device, saved.precision)
        model, tokenizer = load(folder, place.torch_device)
        _same_settings(folder, saved, config, model.config, model_config)
        torch.manual_seed(saved.seed)
        trainer = _trainer(saved, model, tokenizer, data, Path(out), place, ranks, validate, helpers)
        trainer.restore(part)
        if ranks.first:
            Checkpoints(RunFolder(out), tokenizer).settle(trainer.counters.step, trainer.counters.best_step)
        return _run(saved, trainer, place, Path(out), observers, ranks, until, after=trainer.counters.step)


def held(out: str | os.PathLike[str], ranks: Ranks) -> AbstractContextManager[None]:
    """The run's folder is this run's alone inside the block: the first process holds it for all."""
    return RunFolder(out).held() if ranks.first else nullcontext()


def newest(out: str | os.PathLike[str]) -> Path:
    """The newest complete checkpoint of a run."""
    folder = RunFolder(out).newest()
    if folder is None:
        raise CheckpointError(f"There is nothing to resume in {out}. Start the run without --resume.")
    return folder


def saved_config(folder: str | os.PathLike[str]) -> TrainConfig:
    """What a checkpoint was trained with."""
    return _config_of(load_training(folder), folder)


def _same_settings(
    folder: Path, saved: TrainConfig, config: TrainConfig | None, model: ModelConfig, model_config: ModelConfig | None
) -> None:
    """Raise if what is given is not what the checkpoint was trained with."""
    differences = diff(saved, config) if config is not None else []
    if model_config is not None:
        differences += [f"model.{line}" for line in diff(model, model_config)]
    if differences:
        raise ConfigError(
            f"{folder} was trained with other settings (its own -> yours): {'; '.join(differences)}. "
            f"Resume without changing them, or start a new run from its weights with --init {folder}."
        )


def _config_of(part: TrainingPart, folder: str | os.PathLike[str]) -> TrainConfig:
    return TrainConfig.from_json(part.meta.get("config"), f"{folder}: config")


def _trainer(
    config: TrainConfig,
    model: LM,
    tokenizer: "Tokenizer",
    data: BatchSource,
    out: Path,
    device: Device,
    ranks: Ranks,
    validate: Validate | None,
    helpers: Mapping[str, LM],
) -> Trainer:
    module = cast(nn.Module, model).to(device.torch_device)
    for part in module.modules():
        if isinstance(part, config.objective.rests):
            part.requires_grad_(False)
    if config.recompute:
        recompute_blocks(module)
    if config.compile == "on" or (config.compile == "auto" and device.torch_device.type == "cuda"):
        compile_blocks(module)
    return Trainer(
        model,
        _objective(config.objective, helpers, device),
        Backprop(config.optimizer.build(module), device, clip=config.clip, ranks=ranks),
        data,
        length=RunLength(config.schedule, steps=config.steps, minutes=config.minutes),
        cadence=_cadence(config, model.config, device, ranks),
        device=device,
        ranks=ranks,
        validate=validate,
        checkpoints=Checkpoints(RunFolder(out), tokenizer),
        about={"config": config.to_json(), "where": device.describe() | {"processes": ranks.world}},
    )


def _objective(config: ObjectiveConfig, helpers: Mapping[str, LM], device: Device) -> Objective:
    if config.helpers.keys() != helpers.keys():
        asked, given = (", ".join(sorted(names)) or "none" for names in (config.helpers, helpers))
        raise ConfigError(
            f"The objective {config.kind} asks these frozen models: {asked}; and these were given: {given}. "
            f"Give those that it asks as helpers={{name: model}}."
        )
    for helper in helpers.values():
        cast(nn.Module, helper).to(device.torch_device).eval().requires_grad_(False)
    return config.build(helpers)


def _cadence(config: TrainConfig, model: ModelConfig, device: Device, ranks: Ranks) -> Cadence:
    seq_len = config.seq_len or model.context
    if seq_len > model.max_positions:
        raise ConfigError(f"seq_len is {seq_len}; the model has {model.max_positions} positions. Use a smaller one.")
    rows = config.batch_tokens // seq_len
    if rows < 1:
        raise ConfigError(
            f"batch_tokens is {config.batch_tokens}, less than one row of {seq_len}; "
            f"raise it to {seq_len}, or shorten --seq-len."
        )
    ranks.share(rows)
    micro_rows = config.micro_rows or max(1, MICRO_TOKENS[device.torch_device.type] // seq_len)
    return Cadence(
        rows=rows,
        micro_rows=micro_rows,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        checkpoint_every_s=config.checkpoint_every_s,
    )


def _run(
    config: TrainConfig,
    trainer: Trainer,
    device: Device,
    out: Path,
    observers: Sequence[Observer],
    ranks: Ranks,
    until: int | None,
    after: int | None = None,
) -> TrainState:
    """To the end of its length, with the run's own observers beside the caller's. `after`: the step it goes on from."""
    out.mkdir(parents=True, exist_ok=True)
    if device.torch_device.index is not None and device.torch_device.type == "cuda":
        torch.cuda.set_device(device.torch_device)  # what asks for memory, or launches, without naming a device
    mine: list[Observer] = [MetricsFile(out / "metrics.jsonl", after)] if ranks.first else []
    if ranks.first and TensorBoard.installed():
        mine.append(TensorBoard(out / "tensorboard", after))
    trainer.observers = [*mine, *observers]
    try:
        with deterministic(device) if config.deterministic else nullcontext():
            return trainer.run(until)
    finally:
        for observer in trainer.observers:
            observer.close()
