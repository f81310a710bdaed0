"""Count parameters, operations and memory of a model, without allocating it; or list the sources of a blend.

Examples:
  positronic describe positronic-144m
  positronic describe my-run/last --json
  positronic describe tinygpt-15m --set n_layers=12 attention.n_heads=8
  positronic describe positronic-tiny --set 'oscillators.rings=[4,8,16,32,64]' oscillators.steps=6
  positronic describe chimera51.json --strict
  positronic describe published-pretrain
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from positronic.cli.console import print_json, table
from positronic.cli.parts.named_models import find_model_config, find_published
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.adapters.chimera_json import Declared, Published
    from positronic.observe import Description
    from positronic.recipes import Blend


@dataclass(frozen=True)
class Command:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET|FOLDER|CONFIG.json|BLEND")]
    """What to describe: the name of a preset, a checkpoint folder, a config file, or the name of a blend."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Settings to change first."""
    strict: bool = False
    """Of a published configuration: end with 1 where a size that it states contradicts what is computed."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.adapters.chimera_json import declared
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
        published = find_published(self.model)
        if published is None and self.strict:
            raise ConfigError("--strict is for a published configuration, which states sizes; leave it out.")
        found = describe(override(find_model_config(self.model) if published is None else published.config, self.set))
        sizes = [] if published is None else declared(published, found)
        if self.json:
            print_json(found.to_json() | ({} if published is None else _published_json(published, sizes)))
        else:
            self._print(found)
            _print_published(published, sizes)
        if self.strict and any(size.verdict == "contradicts" for size in sizes):
            raise SystemExit(1)

    def _print(self, found: "Description") -> None:
        groups = [(name, f"{n:,}", f"{n / found.total:.1%}") for name, n in found.groups.items()]
        table(f"{self.model}", ["part", "parameters", "share"], [*groups, ("total", f"{found.total:,}", "100.0%")])
        print(f"{found.flops_per_token / 1e6:,.1f} MFLOP a token, forward, in matrix products at full context")
        for depth, flops in found.flops_by_depth.items():
            print(f"{flops / 1e6:,.1f} MFLOP at depth {depth}")
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


def _published_json(published: "Published", sizes: "Sequence[Declared]") -> dict[str, Any]:
    declared = [size._asdict() for size in sizes]
    return {"declared": declared, "waiting": list(published.waiting), "unknown": list(published.unknown)}


def _print_published(published: "Published | None", sizes: "Sequence[Declared]") -> None:
    """What a published file states, and which of its fields nothing reads."""
    if published is None:
        return
    rows = [(size.field, _shown(size.declared), _shown(size.computed), size.verdict) for size in sizes]
    table("sizes that the file states", ["field", "declared", "computed", "verdict"], rows)
    print(f"kept and not read yet: {', '.join(published.waiting)}")
    if published.unknown:
        print(f"known to no edition: {', '.join(published.unknown)}")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
