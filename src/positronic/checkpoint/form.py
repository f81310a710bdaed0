"""The Hugging Face form around the core config: what `config.json` and `generation_config.json` say."""

from typing import Any, Protocol

import torch

from positronic.config import ModelConfig
from positronic.errors import CheckpointError

__all__ = ["CORE", "MODEL_TYPE", "config_json", "core_of", "generation_json"]

MODEL_TYPE = "positronic"
ARCHITECTURE = "PositronicForCausalLM"
CORE = "core"
"""The key under which `config.json` holds the core config, whole."""


class Ends(Protocol):
    """What the form needs to know of a tokenizer."""

    @property
    def eot_id(self) -> int: ...
    @property
    def im_end_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...


def config_json(config: ModelConfig, tokenizer: Ends, dtype: torch.dtype) -> dict[str, Any]:
    """The value of `config.json`."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": config.vocab_size,
        **generation_json(tokenizer),
        CORE: config.to_json(),
    }


def generation_json(tokenizer: Ends) -> dict[str, Any]:
    """The value of `generation_config.json`: text ends with its document or with the turn of a chat."""
    return {
        "bos_token_id": tokenizer.eot_id,
        "eos_token_id": [tokenizer.eot_id, tokenizer.im_end_id],
        "pad_token_id": tokenizer.pad_id,
    }


def core_of(data: Any, where: str) -> Any:
    """The core config in the value of `config.json`, still as JSON; a foreign one raises `CheckpointError`."""
    if not isinstance(data, dict) or data.get("model_type") != MODEL_TYPE or not isinstance(data.get(CORE), dict):
        found = data.get("model_type") if isinstance(data, dict) else None
        raise CheckpointError(
            f"{where} describes a model of type {str(found)[:80]!r} and not one of ours. Give a folder that "
            f"positronic wrote; other models are opened by transformers."
        )
    outer, inner = data.get("vocab_size"), data[CORE].get("vocab_size")
    if outer != inner:
        raise CheckpointError(
            f"{where} says vocab_size {str(outer)[:80]} outside and {str(inner)[:80]} inside {CORE!r}. "
            f"Restore the file that was saved with the weights."
        )
    return data[CORE]
