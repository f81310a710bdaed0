"""positronic: small language models whose insides are not a plain transformer.

model, tokenizer = positronic.load("RUN/last")
for piece in positronic.generate(model, tokenizer, "Once upon a time"):
    print(piece.text, end="")
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["__version__", "generate", "load"]

try:
    __version__ = version("positronic")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.1.0"

_PUBLIC = {"load": "positronic.checkpoint", "generate": "positronic.generation"}


def __getattr__(name: str) -> Any:
    """`load` and `generate` bring torch with them, so they are fetched when first asked for."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'positronic' has no attribute {name!r}")
