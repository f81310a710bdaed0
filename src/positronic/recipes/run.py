"""One run from its config alone: model, data, tokenizer and training put together, begun or gone on with.

RUN/run.json holds the config, so that `--resume` needs nothing but the folder.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from positronic.checkpoint import read_config
from positronic.checkpoint.atomic import writing
from positronic.config import ModelConfig, diff
from positronic.data import Counts, Mixture
from positronic.errors import CheckpointError, ConfigError, TokenizerError
from positronic.models import build
from positronic.recipes.config import RunConfig
from positronic.recipes.tasks import Task, helpers_of
from positronic.text import Tokenizer
from positronic.train import (
    ALONE,
    Observer,
    Ranks,
    TrainState,
    held,
    init_from,
    newest,
    pick_device,
    resume,
    start,
    trunk_from,
)
from positronic.traits.fractal_phase import FractalPhaseConfig

__all__ = ["fit_to", "read_run", "train_run"]


def fit_to(model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The config with the tokenizer's vocabulary and its end of document."""
    return model.fitted(tokenizer.vocab_size, tokenizer.eot_id)


def read_run(out: str | os.PathLike[str]) -> RunConfig:
    """The config a run was begun with."""
    path = Path(out) / "run.json"
    if not path.is_file():
        raise CheckpointError(f"There is nothing to resume in {out}: {path} is not there. Start without --resume.")
    try:
        return RunConfig.from_json(json.loads(path.read_text("utf-8")), str(path))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged; begin a new run from {out}/last with --init.") from None


def train_run(
    run: RunConfig,
    out: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer | None = None,
    go_on: bool = False,
    device: str = "auto",
    ranks: Ranks = ALONE,
    observers: Sequence[Observer] = (),
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[Counts], None] | None = None,
    until: int | None = None,
) -> TrainState:
    """Begin `run` in the folder `out`, or with `go_on` continue what is there, to its end or to Ctrl-C.

    A new run needs the tokenizer; a run that goes on has its own, and must be the same run. until: stop after this
    step and save, 0 having begun; what goes on later is the run that was never stopped.
    """
    folder = Path(out)
    pick_device(device, run.train.precision)  # a device that is not there is refused before anything is written
    if go_on:
        saved = read_run(folder)
        if differences := diff(saved, run):
            raise ConfigError(
                f"{out} was begun with other settings (its own -> yours): {'; '.join(differences)}. "
                f"Resume without changing them, or begin a new run from its weights, {folder / 'last'}."
            )
        tokenizer = Tokenizer.load(newest(folder))
    if tokenizer is None:
        raise ConfigError("A new run needs a tokenizer; train one with `positronic tokenizer train`.")
    if not go_on:
        _check_vocabulary(run, tokenizer)
    with held(folder, ranks):
        return _train(run, folder, tokenizer, go_on, device, ranks, observers, cache, progress, until)


def _train(
    run: RunConfig,
    folder: Path,
    tokenizer: Tokenizer,
    go_on: bool,
    device: str,
    ranks: Ranks,
    observers: Sequence[Observer],
    cache: str | os.PathLike[str] | None,
    progress: Callable[[Counts], None] | None,
    until: int | None,
) -> TrainState:
    """Put together what the run needs, and begin it or go on."""
    model_config = fit_to(_unpinned(run.model) if run.reinit_embeddings else run.model, tokenizer)
    model = None if go_on else build(model_config, run.model_seed, tokenizer=tokenizer)
    helpers = helpers_of(run, tokenizer)
    task = Task(run, model_config, tokenizer, helpers, None if cache is None else Path(cache))
    data = task.data(progress)
    train = run.train if run.epochs is None else replace(run.train, steps=_steps(run, data))
    together: dict[str, Any] = {
        "data": data,
        "device": device,
        "ranks": ranks,
        "validate": task.validation(),
        "observers": observers,
        "helpers": helpers,
        "until": until,
    }
    if model is None:
        return resume(folder, train, model_config=model_config, **together)
    if run.init is not None:
        (trunk_from if run.reinit_embeddings else init_from)(run.init, model)

    def write_down() -> None:
        path = folder / "run.json"
        with writing(path):
            path.write_text(json.dumps(run.to_json(), indent=2) + "\n", "utf-8")

    accepted = write_down if ranks.first else None
    return start(train, model=model, tokenizer=tokenizer, out=folder, accepted=accepted, **together)


def _check_vocabulary(run: RunConfig, tokenizer: Tokenizer) -> None:
    """Raise if the first weights are of a model that reads and writes other pieces."""
    if run.init is None or run.reinit_embeddings:
        return
    read_config(run.init)  # a folder that is no checkpoint is refused in its own words
    theirs = Tokenizer.load(run.init)
    if theirs.sha256 != tokenizer.sha256:
        raise TokenizerError(
            f"{run.init} has another vocabulary ({theirs.vocab_size:,} entries, hash {theirs.sha256[:12]}) "
            f"than this tokenizer's ({tokenizer.vocab_size:,}, {tokenizer.sha256[:12]}): every id would mean another "
            f"piece. Leave --tokenizer out, or keep the trunk alone with --reinit-embeddings."
        )


def _unpinned(config: ModelConfig) -> ModelConfig:
    """The config without the hash of the fractal table of another vocabulary."""
    parts = {field.name: getattr(config, field.name) for field in fields(config)}
    seeds = {name: getattr(part, "phase_seed", None) for name, part in parts.items()}
    return config.replace(
        **{
            name: parts[name].replace(phase_seed=seed.replace(sha256=None))
            for name, seed in seeds.items()
            if isinstance(seed, FractalPhaseConfig)
        }
    )


def _steps(run: RunConfig, data: Mixture) -> int:
    """Updates in which `epochs` of the rows of `run.data` are read; what is replayed comes on top."""
    sources = data.describe()["sources"][: len(run.data)]
    rows = sum(source["rows"] for source in sources) / sum(source["share"] for source in sources)
    return max(1, round((run.epochs or 1) * rows / max(1, run.train.batch_tokens // data.seq_len)))
