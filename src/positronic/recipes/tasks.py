"""What an objective's declarations mean for a run: which data are opened, how a model is measured, who helps.

    objective.reads    {kind of data: measure}   MIXTURES[kind] makes rows, MEASURES[measure] a validation
    objective.helpers  {name: checkpoint}        loaded; None is the checkpoint that the run begins from

A new objective is its own file and needs no line here; a new kind of data or measure is a function and a line of a
table.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from positronic.checkpoint import load
from positronic.config import ModelConfig
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
from positronic.errors import ConfigError, DataError, TokenizerError
from positronic.eval import Score, assistant_bits_per_byte, bits_per_byte, scorable
from positronic.lm import LM
from positronic.recipes.config import RunConfig
from positronic.recipes.preferences import preferred
from positronic.text import Tokenizer
from positronic.train import DataKind, Measure, Validate

__all__ = ["MEASURES", "MIXTURES", "Task", "helpers_of"]

VALID_CONVERSATIONS = 200
"""Held-out conversations that a validation during training reads, at most about."""

log = logging.getLogger(__name__)


def helpers_of(run: RunConfig, tokenizer: Tokenizer) -> dict[str, LM]:
    """The frozen models that the run's objective asks, by name; each reads and writes the run's vocabulary."""
    objective, found = run.train.objective, {}
    for name, checkpoint in objective.helpers.items():
        folder = run.init if checkpoint is None else checkpoint
        if folder is None:
            raise ConfigError(
                f"The objective {objective.kind} learns against the model as it was before, its {name}; "
                f"name its checkpoint as init."
            )
        found[name], theirs = load(folder)
        if theirs.sha256 != tokenizer.sha256:
            raise TokenizerError(
                f"{folder}, the {name} of the objective {objective.kind}, has another vocabulary than this run: "
                f"every id would mean another piece. Use a model of the run's own tokenizer."
            )
    return found


@dataclass(frozen=True)
class Task:
    """A run, and what stands around it once it is put together."""

    run: RunConfig
    model: ModelConfig
    """Of the run, fitted to the tokenizer."""
    tokenizer: Tokenizer
    helpers: Mapping[str, LM]
    cache: Path | None = None

    @property
    def kind(self) -> DataKind:
        """What the sources hold: as the run says, where its objective reads that, else what the objective reads."""
        said: DataKind = "conversations" if self.run.conversations else "texts"
        reads = self.run.train.objective.reads
        return said if said in reads else next(iter(reads))

    @property
    def seq_len(self) -> int:
        return self.run.train.seq_len or self.model.context

    @property
    def names(self) -> Mapping[str, str]:
        """What is filled into conversations."""
        return NAMES if self.run.fill_names else UNFILLED

    def data(self, progress: Callable[[Counts], None] | None = None) -> Mixture:
        """What is learned from."""
        settings: dict[str, Any] = {
            "seq_len": self.seq_len,
            "seed": self.run.data_seed,
            "one_in": None if self.run.valid else self.run.held_out_one_in,
            "cache": self.cache,
            "progress": progress,
        }
        return MIXTURES[self.kind](self, settings)

    def validation(self) -> Validate | None:
        """What measures the model during training, on data it does not learn from.

        None, and a warning, where none of the conversations or pairs can be held out.
        """
        return MEASURES[self.run.train.objective.reads[self.kind]](self)


def _texts(task: Task, settings: Mapping[str, Any]) -> Mixture:
    return text_mixture(task.run.data, task.tokenizer, **settings)


def _conversations(task: Task, settings: Mapping[str, Any]) -> Mixture:
    return chat_mixture(task.run.data, task.tokenizer, replay=task.run.replay, names=task.names, **settings)


def _pairs(task: Task, settings: Mapping[str, Any]) -> Mixture:
    return pair_mixture(task.run.data, task.tokenizer, **settings)


MIXTURES: dict[DataKind, Callable[[Task, Mapping[str, Any]], Mixture]] = {
    "texts": _texts,
    "conversations": _conversations,
    "pairs": _pairs,
}
"""How the sources of a run become rows."""


def _text_score(task: Task) -> Validate:
    documents = _unseen_texts(task.run)
    return lambda model: _measured(bits_per_byte(model, task.tokenizer, documents))


def _assistant_score(task: Task) -> Validate | None:
    run, tokenizer, seq_len = task.run, task.tokenizer, task.seq_len
    few = scorable(tokenizer, _unseen_chats(task), seq_len, at_most=VALID_CONVERSATIONS)
    if not few and run.valid:
        raise DataError(
            f"No word of an assistant in {', '.join(run.valid)} lies within a row of --seq-len {seq_len}. Use a "
            f"larger --seq-len, or measure on other conversations."
        )
    if not few:
        _warn_unmeasured("conversations", seq_len)
        return None
    return lambda model: _measured(assistant_bits_per_byte(model, tokenizer, few, seq_len=seq_len))


def _preference_score(task: Task) -> Validate | None:
    run, tokenizer, seq_len, cache = task.run, task.tokenizer, task.seq_len, task.cache
    if run.valid:
        pairs: Mixture | None = pair_mixture(run.valid, tokenizer, seq_len=seq_len, one_in=None, cache=cache)
    else:
        pairs = heldout_pairs(run.data, tokenizer, seq_len=seq_len, one_in=run.held_out_one_in, cache=cache)
    if pairs is None:
        _warn_unmeasured("pairs", seq_len)
        return None
    return preferred(run.train.objective.build(task.helpers), pairs, tokenizer)


MEASURES: dict[Measure, Callable[[Task], Validate | None]] = {
    "bits_per_byte": _text_score,
    "assistant_bits_per_byte": _assistant_score,
    "preference": _preference_score,
}
"""How a model is measured during training."""


def _warn_unmeasured(what: str, seq_len: int) -> None:
    log.warning(
        "Nothing is measured during this run: the %s are too few or too alike to hold one out, or what was held out "
        "does not fit a row of --seq-len %d. Name %s to measure on with --valid.",
        what,
        seq_len,
        what,
    )


def _unseen_chats(task: Task) -> list[Conversation]:
    """What a validation reads of conversations."""
    run = task.run
    if run.valid:
        return [conversation for path in run.valid for conversation in open_chats(path, task.names)]
    return heldout_conversations(run.data, one_in=run.held_out_one_in, names=task.names)


def _measured(score: Score) -> dict[str, float]:
    """The loss beside bits per byte: it has the unit of the loss in training."""
    return {"bits_per_byte": score.bits_per_byte, "loss": score.nats_per_token}


def _unseen_texts(run: RunConfig) -> list[Document]:
    """What a validation reads of plain text."""
    if not run.valid:
        return heldout_documents(run.data, one_in=run.held_out_one_in, budget_bytes=run.valid_bytes)
    share = run.valid_bytes // len(run.valid)
    return [document for path in run.valid for document in excerpt(open_source(path), share)]
