"""What a folder that Transformers has saved lacks to be a checkpoint of ours."""

import logging
from pathlib import Path

__all__ = ["complete"]

log = logging.getLogger(__name__)


def complete(folder: Path, source: Path, longest: int) -> None:
    """Make a saved folder a checkpoint of ours, if a tokenizer is at hand, there or in `source`; longest: tokens that
    the model holds."""
    try:
        from positronic.checkpoint import adopt
        from positronic.errors import CheckpointError, TokenizerError
        from positronic.text import Tokenizer
    except ModuleNotFoundError:  # an exported copy of this file runs where the package is not installed
        return
    try:
        if not (folder / "tokenizer.json").is_file():
            Tokenizer.load(source).save(folder, longest)
        adopt(folder)
    except (TokenizerError, CheckpointError) as error:
        log.warning(
            "%s is not yet a checkpoint that positronic.load reads: %s Save the tokenizer there, then call "
            "positronic.checkpoint.adopt.",
            folder,
            error,
        )
