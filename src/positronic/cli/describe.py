"""Count parameters, operations and memory of a model, without allocating it.

Examples:
  positronic describe positronic-144m
  positronic describe my-run/last --json
  positronic describe tinygpt-15m --set n_layers=12 attention.n_heads=8
  positronic describe positronic-tiny --set 'oscillators.rings=[4,8,16,32,64]' oscillators.steps=6
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from positronic.cli.console import print_json, table
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.config import ModelConfig


@dataclass(frozen=True)
class Command:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET|FOLDER|CONFIG.json")]
    """What to describe: the name of a preset, a checkpoint folder, or a config file."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Settings to change first."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.config import override
        from positronic.observe import describe

        found = describe(override(find_model_config(self.model), self.set))
        if self.json:
            print_json(found.to_json())
            return
        groups = [(name, f"{n:,}", f"{n / found.total:.1%}") for name, n in found.groups.items()]
        table(f"{self.model}", ["part", "parameters", "share"], [*groups, ("total", f"{found.total:,}", "100.0%")])
        print(f"{found.flops_per_token / 1e6:,.1f} MFLOP a token, forward, in matrix products at full context")
        print(f"{found.state_fixed:,} bytes of state, and {found.state_per_token:,} more with every token (float32)")


def find_model_config(name: str) -> "ModelConfig":
    """The config that a preset's name, a checkpoint folder or a JSON file stands for."""
    from positronic.checkpoint import read_config
    from positronic.config import ModelConfig
    from positronic.models import preset

    path = Path(name)
    if path.is_dir():
        return read_config(path)
    if path.suffix != ".json":
        return preset(name)
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot be read as JSON ({error}); give a config file, a folder or a preset."
        ) from None
    nested = data.get("core") if isinstance(data, dict) else None
    return ModelConfig.from_json(nested or data, name)
