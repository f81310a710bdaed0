"""One run from its config alone: model, data, tokenizer and training put together, begun or gone on with.

RUN/run.json holds the config, so that `--resume` needs nothing but the folder.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from positronic.checkpoint import load, read_config
from positronic.checkpoint.atomic import writing
from positronic.config import AtMost, Config, ModelConfig, diff
from positronic.data import (
    NAMES,
    UNFILLED,
    Conversation,
    Counts,
    Document,
    Mixture,
    chat_mixture,
    excerpt,
    heldout_conversations,
    heldout_documents,
    heldout_pairs,
    open_chats,
    open_source,
    pair_mixture,
    text_mixture,
)
from positronic.errors import CheckpointError, ConfigError, DataError, TokenizerError
from positronic.eval import Score, assistant_bits_per_byte, bits_per_byte, scorable
from positronic.lm import LM
from positronic.models import build
from positronic.recipes.preferences import preferred
from positronic.text import Tokenizer
from positronic.train import (
    ALONE,
    DPOConfig,
    Observer,
    Ranks,
    TrainConfig,
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

__all__ = ["RunConfig", "fit_to", "read_run", "train_run"]

VALID_CONVERSATIONS = 200
"""Held-out conversations that a validation during training reads, at most about."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config, kind="run"):
    """What is trained, on what, and how."""

    model: ModelConfig
    """The family and its sizes; vocabulary and document end come from the tokenizer."""
    data: tuple[str, ...]
    """Sources, PATH[#field][:weight] each; pairs of answers where the objective is preference."""
    conversations: bool = False
    """Whether the sources are conversations, of which only the assistant's words are learned."""
    replay: tuple[str, ...] = ()
    """With conversations: plain text of which a little is mixed in, against forgetting."""
    fill_names: bool = False
    """With conversations: whether {{name}} and {{author}} in them become the model's name and its makers'."""
    train: TrainConfig = TrainConfig()
    """Steps, rates, batches."""
    valid: tuple[str, ...] = ()
    """Text to measure on. Empty: what is held out of `data`."""
    held_out_one_in: int = 100
    """Without `valid`: one document, or conversation, in so many is held out."""
    valid_bytes: int = 200_000
    """Bytes of text in a validation during training, all sources together."""
    epochs: float | None = None
    """How often the data is read; in place of train.steps. None: train.steps says."""
    model_seed: Annotated[int, AtMost(2**64)] = 0
    """Of the first weights."""
    data_seed: Annotated[int, AtMost(2**64)] = 0
    """Of the order of rows."""
    init: str | None = None
    """Checkpoint whose weights are the first; None: drawn from `model_seed`."""
    reinit_embeddings: bool = False
    """Whether of `init` the trunk alone is taken, for a tokenizer of another vocabulary: what is looked up by id (the
    embedding, which is the head too, and engram tables) is drawn anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reinit_embeddings and (self.init is None or isinstance(self.train.objective, DPOConfig)):
            raise ConfigError(
                "reinit_embeddings takes the trunk of another model for a new vocabulary, so it needs init, and "
                "preferences are learned against a model of one vocabulary. Leave it out, or train on text first."
            )
        if self.epochs is not None and not self.epochs > 0:
            raise ConfigError(f"epochs is {self.epochs:g}; use more than 0, or leave it out and give steps.")
        if self.fill_names and not self.conversations:
            raise ConfigError("fill_names fills names into conversations, and there are none; leave it out.")


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
    data = _data(run, model_config, tokenizer, cache, progress)
    train = run.train if run.epochs is None else replace(run.train, steps=_steps(run, data))
    reference = _reference(run)
    together: dict[str, Any] = {
        "data": data,
        "device": device,
        "ranks": ranks,
        "validate": _validation(run, model_config, tokenizer, reference, cache),
        "observers": observers,
        "reference": reference,
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


def _data(
    run: RunConfig,
    model: ModelConfig,
    tokenizer: Tokenizer,
    cache: str | os.PathLike[str] | None,
    progress: Callable[[Counts], None] | None,
) -> Mixture:
    settings: dict[str, Any] = {
        "seq_len": run.train.seq_len or model.context,
        "seed": run.data_seed,
        "one_in": None if run.valid else run.held_out_one_in,
        "cache": None if cache is None else Path(cache),
        "progress": progress,
    }
    if isinstance(run.train.objective, DPOConfig):
        return pair_mixture(run.data, tokenizer, **settings)
    if run.conversations:
        return chat_mixture(run.data, tokenizer, replay=run.replay, names=_names(run), **settings)
    return text_mixture(run.data, tokenizer, **settings)


def _names(run: RunConfig) -> Mapping[str, str]:
    return NAMES if run.fill_names else UNFILLED


def _steps(run: RunConfig, data: Mixture) -> int:
    """Updates in which `epochs` of the rows of `run.data` are read; what is replayed comes on top."""
    sources = data.describe()["sources"][: len(run.data)]
    rows = sum(source["rows"] for source in sources) / sum(source["share"] for source in sources)
    return max(1, round((run.epochs or 1) * rows / max(1, run.train.batch_tokens // data.seq_len)))


def _reference(run: RunConfig) -> LM | None:
    """What a preference objective compares with: the checkpoint that the run began from."""
    if not isinstance(run.train.objective, DPOConfig):
        return None
    if run.init is None:
        raise ConfigError("Preferences are learned against the model as it was before; name its checkpoint as init.")
    return load(run.init)[0]


def _validation(
    run: RunConfig,
    model: ModelConfig,
    tokenizer: Tokenizer,
    reference: LM | None,
    cache: str | os.PathLike[str] | None,
) -> Callable[[LM], dict[str, float]] | None:
    """What measures the model during training, on text, conversations or pairs it does not learn from.

    None, and a warning, where none of the conversations or pairs can be held out.
    """
    seq_len = run.train.seq_len or model.context
    if isinstance(run.train.objective, DPOConfig) and reference is not None:
        kept = None if cache is None else Path(cache)
        if run.valid:
            pairs: Mixture | None = pair_mixture(run.valid, tokenizer, seq_len=seq_len, one_in=None, cache=kept)
        else:
            pairs = heldout_pairs(run.data, tokenizer, seq_len=seq_len, one_in=run.held_out_one_in, cache=kept)
        if pairs is None:
            _warn_unmeasured("pairs", seq_len)
            return None
        return preferred(run.train.objective.build(reference), pairs, tokenizer)
    if run.conversations:
        few = scorable(tokenizer, _unseen_chats(run), seq_len, at_most=VALID_CONVERSATIONS)
        if not few and run.valid:
            raise DataError(
                f"No word of an assistant in {', '.join(run.valid)} lies within a row of --seq-len {seq_len}. Use a "
                f"larger --seq-len, or measure on other conversations."
            )
        if not few:
            _warn_unmeasured("conversations", seq_len)
            return None
        return lambda model: _measured(assistant_bits_per_byte(model, tokenizer, few, seq_len=seq_len))
    documents = _unseen(run)
    return lambda model: _measured(bits_per_byte(model, tokenizer, documents))


def _warn_unmeasured(what: str, seq_len: int) -> None:
    log.warning(
        "Nothing is measured during this run: the %s are too few or too alike to hold one out, or what was held out "
        "does not fit a row of --seq-len %d. Name %s to measure on with --valid.",
        what,
        seq_len,
        what,
    )


def _unseen_chats(run: RunConfig) -> list[Conversation]:
    """What a validation reads of conversations."""
    if run.valid:
        return [conversation for path in run.valid for conversation in open_chats(path, _names(run))]
    return heldout_conversations(run.data, one_in=run.held_out_one_in, names=_names(run))


def _measured(score: Score) -> dict[str, float]:
    """The loss beside bits per byte: it has the unit of the loss in training."""
    return {"bits_per_byte": score.bits_per_byte, "loss": score.nats_per_token}


def _unseen(run: RunConfig) -> list[Document]:
    """What a validation reads of plain text."""
    if not run.valid:
        return heldout_documents(run.data, one_in=run.held_out_one_in, budget_bytes=run.valid_bytes)
    share = run.valid_bytes // len(run.valid)
    return [document for path in run.valid for document in excerpt(open_source(path), share)]
