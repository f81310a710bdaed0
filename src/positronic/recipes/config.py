"""What a run is, as one value: a model, its data and its training."""

from dataclasses import dataclass
from typing import Annotated

from positronic.config import AtMost, Config, ModelConfig
from positronic.errors import ConfigError
from positronic.train import TrainConfig

__all__ = ["RunConfig"]


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config, kind="run"):
    """What is trained, on what, and how."""

    model: ModelConfig
    """The family and its sizes; vocabulary and document end come from the tokenizer."""
    data: tuple[str, ...]
    """Sources, PATH[#field][:weight] each, of a kind that the objective reads."""
    conversations: bool = False
    """Whether the sources of an objective that reads text too are conversations, of which only the assistant's words
    are learned."""
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
        if self.reinit_embeddings and (self.init is None or None in self.train.objective.helpers.values()):
            raise ConfigError(
                "reinit_embeddings takes the trunk of another model for a new vocabulary, so it needs init, and what "
                "learns against that model, as preferences do, keeps its vocabulary. Leave it out, or learn text first."
            )
        if self.epochs is not None and not self.epochs > 0:
            raise ConfigError(f"epochs is {self.epochs:g}; use more than 0, or leave it out and give steps.")
        if self.fill_names and not self.conversations:
            raise ConfigError("fill_names fills names into conversations, and there are none; leave it out.")
