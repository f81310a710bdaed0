"""The config that Transformers knows: the core config nested whole, and what its tools ask of every model."""

from dataclasses import field
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from positronic.config import ModelConfig
from positronic.errors import ConfigError

__all__ = ["PositronicConfig"]


class PositronicConfig(PreTrainedConfig):
    """One for all families: `core` is the JSON of the config that builds the model."""

    model_type = "positronic"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    has_no_defaults_at_init = True

    core: dict[str, Any] = field(default_factory=dict)
    """The core config as JSON; its `kind` names the family."""
    vocab_size: int | None = None
    """Entries of the vocabulary; None: as `core` says."""
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True
    loops: int | str | None = None
    """How often a loop in the trunk is passed, or "auto", where a call does not say; None: as usual, and in training as
    drawn."""
    tie_word_embeddings: bool = True
    """Whether the head multiplies by the embedding itself; as `core` says, whatever is given."""

    def __post_init__(self, **kwargs: Any) -> None:
        inside = self.core.get("vocab_size")
        if self.vocab_size is None:
            self.vocab_size = inside
        if self.vocab_size != inside:
            raise ConfigError(
                f"vocab_size is {self.vocab_size} and the core config says {inside}. A vocabulary is part of the "
                f"model: change neither, or train a model with the other tokenizer."
            )
        self.tie_word_embeddings = self.core.get("tied", True)
        super().__post_init__(**kwargs)
        if not hasattr(self, "auto_map"):
            self.auto_map: dict[str, str] = {}  # TRL asks the config of any family it does not know

    @staticmethod
    def of(core: ModelConfig) -> "PositronicConfig":
        """The config around a core config."""
        return PositronicConfig(core=core.to_json())

    @property
    def hidden_size(self) -> int:
        return self.core["d_model"]

    @property
    def num_hidden_layers(self) -> int:
        return self.core["n_layers"]

    @property
    def max_position_embeddings(self) -> int:
        """The most tokens that a sequence may have."""
        return self.core["max_positions"]

    @property
    def n_positions(self) -> int:
        """Tokens of a row in training: what lm-eval cuts its windows by, as we do."""
        return self.core["context"]
