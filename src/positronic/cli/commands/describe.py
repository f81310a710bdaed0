"""Count parameters, operations and memory of a model, without allocating it; or list the sources of a blend.

Examples:
  positronic describe positronic-144m
  positronic describe my-run/last --json
  positronic describe tinygpt-15m --set n_layers=12 attention.n_heads=8
  positronic describe positronic-tiny --set 'oscillators.rings=[4,8,16,32,64]' oscillators.steps=6
  positronic describe published-pretrain
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import tyro

from positronic.cli.console import print_json, table
from positronic.cli.parts.named_models import find_model_config
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.recipes import Blend


@dataclass(frozen=True)
class Command:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET|FOLDER|CONFIG.json|BLEND")]
    """What to describe: the name of a preset, a checkpoint folder, a config file, or the name of a blend."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Settings to change first."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.config import did_you_mean, override
        from positronic.models import PRESETS
        from positronic.observe import describe
        from positronic.recipes import BLENDS

        if self.model in BLENDS:
            self._blend(BLENDS[self.model])
            return
        named = [*PRESETS, *BLENDS]
        if self.model not in named and not self.model.endswith(".json") and not Path(self.model).is_dir():
            nearest = did_you_mean(self.model, named)
            raise ConfigError(f"{self.model!r} is no folder, config file, preset or blend. {nearest}")
        found = describe(override(find_model_config(self.model), self.set))
        if self.json:
            print_json(found.to_json())
            return
        groups = [(name, f"{n:,}", f"{n / found.total:.1%}") for name, n in found.groups.items()]
        table(f"{self.model}", ["part", "parameters", "share"], [*groups, ("total", f"{found.total:,}", "100.0%")])
        print(f"{found.flops_per_token / 1e6:,.1f} MFLOP a token, forward, in matrix products at full context")
        print(f"{found.state_fixed:,} bytes of state, and {found.state_per_token:,} more with every token (float32)")

    def _blend(self, blend: "Blend") -> None:
        if self.set:
            raise ConfigError(f"The blend {self.model} has no settings; leave --set out.")
        if self.json:
            print_json({"blend": self.model, **asdict(blend)})
            return
        total = sum(part.share for part in blend.parts)
        command = "sft" if blend.conversations else "train"
        where = f"{blend.take:,} rows of the Hugging Face hub" if blend.take else "files of a folder, --data FOLDER"
        print(f"positronic {command} --blend {self.model}: {where}")
        sources = [quote(text) for text in blend.data()] if blend.take else blend.shares
        for source, part in zip(sources, blend.parts, strict=True):
            print(f"{part.share / total:7.1%}  {source}\n         {'; '.join(filter(None, (part.licence, part.note)))}")
