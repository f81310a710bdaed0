"""Named mixtures of text: files below a folder, their shares, and the text to be measured on."""

from dataclasses import dataclass
from pathlib import Path

from positronic.config import did_you_mean
from positronic.errors import ConfigError

__all__ = ["BLENDS", "Blend", "blend"]


@dataclass(frozen=True)
class Blend:
    """Shares of tokens by file, and what is never trained on."""

    shares: dict[str, float]
    """File below the folder -> share of the tokens."""
    valid: tuple[str, ...]
    """Files below the folder that are measured on, one score each."""
    pass_tokens: int
    """Tokens of what is called one pass; small sources repeat within it."""

    def data(self, folder: Path) -> tuple[str, ...]:
        """As `--data` takes it: PATH:share."""
        return tuple(f"{folder / name}:{share}" for name, share in self.shares.items())

    def valid_paths(self, folder: Path) -> tuple[str, ...]:
        """As `--valid` takes it."""
        return tuple(str(folder / name) for name in self.valid)


BLENDS = {
    "blend-v1": Blend(
        shares={
            "novels_train.jsonl.xz": 0.60,
            "peps_train.jsonl.xz": 0.18,
            "openstax_train.jsonl.xz": 0.12,
            "tinystories_cased_2m.txt.xz": 0.10,
        },
        valid=(
            "novels_valid.jsonl.xz",
            "peps_valid.jsonl.xz",
            "openstax_valid.jsonl.xz",
            "tinystories_valid_a.txt.xz",
        ),
        pass_tokens=20_000_000,
    ),
}


def blend(name: str) -> Blend:
    """A blend by its name; an unknown one raises `ConfigError` with the nearest."""
    if name not in BLENDS:
        raise ConfigError(f"There is no blend {name!r}. {did_you_mean(name, BLENDS)}")
    return BLENDS[name]
