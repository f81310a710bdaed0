"""Named mixtures: files of a folder, or data sets of the Hugging Face hub, and their shares of the tokens.

    blend-v1            text, the four files that the reference runs of all families learned from
    published-pretrain  text, what the oscillator and the colony family were published with: 35/25/25/15
    published-sft       conversations, what both were tuned on: quarters
    metric-pretrain     text, what the card of the metric family lists, in the proportions of its token counts
    metric-sft          conversations, what it was tuned on

Data sets are streamed from the hub, or read from copies of them below a folder, at FOLDER/OWNER/NAME. Of each the first
rows are taken, as many as its share of the blend's `take`; a source that is smaller repeats, so that the shares hold.

The cards of the families name the data sets and their shares. They name no configuration, split or column: these are
those that the data sets' own cards and their users state, and where none was to be found (the notes say so), the usual
ones. A column that is not there is answered with those that are; `positronic describe BLEND` prints the sources as
--data takes them, to be mended there. Licences are as the data sets' cards state them, or the cards of what they copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from positronic.config import did_you_mean
from positronic.data import DataSpec, HubSet
from positronic.errors import ConfigError

__all__ = ["BLENDS", "Blend", "Part", "blend", "blended"]


@dataclass(frozen=True)
class Part:
    """One source of a blend."""

    source: str
    """A file below the folder, or a data set as `hf:` takes it."""
    share: float
    """Of the tokens, relative to the others'."""
    licence: str
    note: str = ""


@dataclass(frozen=True)
class Blend:
    """Sources with their shares of the tokens, and what is never trained on."""

    parts: tuple[Part, ...]
    valid: tuple[str, ...] = ()
    """Files below the folder that are measured on, one score each; empty: a hundredth of every source is held out."""
    conversations: bool = False
    """Whether it is for tuning on conversations, and not for training on text."""
    take: int | None = None
    """Rows of all data sets together; None: files, which are read whole."""
    pass_tokens: int | None = None
    """Tokens of what is called one pass; small sources repeat within it."""

    @property
    def shares(self) -> dict[str, float]:
        """Source -> share."""
        return {part.source: part.share for part in self.parts}

    def data(self, folder: Path | None = None, take: int | None = None) -> tuple[str, ...]:
        """As `--data` takes it: of the files below `folder`, or of the data sets, `take` rows in all."""
        return tuple(f"{self._placed(part, folder, take or self.take)}:{part.share}" for part in self.parts)

    def valid_paths(self, folder: Path) -> tuple[str, ...]:
        """As `--valid` takes it."""
        return tuple(str(folder / name) for name in self.valid)

    def _placed(self, part: Part, folder: Path | None, take: int | None) -> DataSpec:
        spec = DataSpec.parse(part.source)
        if isinstance(spec.path, HubSet):
            name = spec.path.name if folder is None else str(folder / spec.path.name)
            rows = take and ceil(take * part.share / sum(self.shares.values()))
            return replace(spec, path=replace(spec.path, name=name, take=rows))
        assert folder is not None, "files lie in a folder"
        return replace(spec, path=folder / spec.path)


ASSUMED = "column assumed"

BLENDS = {
    "blend-v1": Blend(
        (
            Part("novels_train.jsonl.xz", 0.60, "none stated; novels of 1839 to 1929"),
            Part("peps_train.jsonl.xz", 0.18, "public domain or CC0-1.0, nearly all"),
            Part("openstax_train.jsonl.xz", 0.12, "CC BY 3.0"),
            Part("tinystories_cased_2m.txt.xz", 0.10, "CDLA-Sharing-1.0"),
        ),
        valid=(
            "novels_valid.jsonl.xz",
            "peps_valid.jsonl.xz",
            "openstax_valid.jsonl.xz",
            "tinystories_valid_a.txt.xz",
        ),
        pass_tokens=20_000_000,
    ),
    "published-pretrain": Blend(
        (
            Part("hf:openbmb/Ultra-FineWeb-L3@Ultra-FineWeb-L3-en-QA-Synthetic:train#content", 0.35, "Apache-2.0"),
            Part("hf:HuggingFaceFW/fineweb-edu@sample-10BT:train#text", 0.25, "ODC-By 1.0"),
            Part("hf:HuggingFaceTB/finemath@finemath-4plus:train#text", 0.25, "ODC-By 1.0"),
            Part("hf:Quazim0t0/PretrainNew:train#text", 0.15, "see its card", ASSUMED),
        ),
        take=400_000,
    ),
    "published-sft": Blend(
        (
            Part("hf:mlabonne/ultrachat_200k_sft", 0.25, "see its card (UltraChat 200k: MIT)"),
            Part("hf:mlabonne/ultrafeedback-sft", 0.25, "see its card (UltraFeedback: MIT)"),
            Part("hf:openbmb/UltraData-SFT-2605@Knowledge:no_think", 0.25, "see its card", "gated"),
            Part("hf:volcanos/OpenThoughts2-1M-ShortThink", 0.25, "see its card (OpenThoughts2: Apache-2.0)"),
        ),
        conversations=True,
        take=100_000,
    ),
    "metric-pretrain": Blend(
        (
            Part("hf:WeMake/Intelligent-Content-Understanding:train#text", 256, "see its card", ASSUMED),
            Part(
                "hf:QingyiSi/Alpaca-CoT:train?files=Chain-of-Thought/CoT_data.json#instruction+input+output",
                128,
                "Apache-2.0",
                "files of many shapes; this one stands for them",
            ),
            Part(
                "hf:HuggingFaceH4/MATH-500:test#problem+solution",
                256,
                "see its card (MATH: MIT)",
                "a test: no model trained on it can be measured on it",
            ),
            Part("hf:zai-org/LongWriter-6k:train#messages.content", 128, "Apache-2.0"),
        ),
        take=24_000,
        pass_tokens=768_000,
    ),
    "metric-sft": Blend(
        (Part("hf:prithivMLmods/Deepthink-Reasoning:train", 1, "see its card"),),
        conversations=True,
        take=8_000,
        pass_tokens=128_512,
    ),
}


def blend(name: str) -> Blend:
    """A blend by its name; an unknown one raises `ConfigError` with the nearest."""
    if name not in BLENDS:
        raise ConfigError(f"There is no blend {name!r}. {did_you_mean(name, BLENDS)}")
    return BLENDS[name]


def blended(
    name: str | None, given: Sequence[str], take: int | None, *, conversations: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(data, valid) to train or tune on: what is `given`, or a blend, whose sources may lie in the one folder given."""
    if name is None:
        if take is not None:
            raise ConfigError("--take bounds a blend; bound a data set in its name: hf:NAME?take=ROWS.")
        return tuple(given), ()
    found = blend(name)
    if found.conversations != conversations:
        what, command = ("conversations", "sft") if found.conversations else ("text", "train")
        raise ConfigError(f"The blend {name} is of {what}; give it to `positronic {command}`.")
    if len(given) > 1 or (found.take is None and not given):
        raise ConfigError(f"--blend {name} mixes the sources of one folder; give it with --data FOLDER.")
    if take is not None and (found.take is None or take < len(found.parts)):
        limits = "its files are read whole" if found.take is None else f"it has {len(found.parts)} sources"
        raise ConfigError(f"--take {take} does not fit the blend {name}: {limits}. Leave it out, or take more rows.")
    folder = Path(given[0]) if given else None
    return found.data(folder, take), () if folder is None else found.valid_paths(folder)
