"""Train a model on text; go on with a run; or start from another model's weights.

Examples:
  positronic train --model tinygpt-tiny --data book.txt notes/ --tokenizer tok --out my-run
  positronic train --model tinygpt-15m --data novels.jsonl.xz:0.6 peps.jsonl.xz:0.4 --tokenizer tok --out my-run
  positronic train --model tinygpt-15m --blend blend-v1 --data FOLDER --tokenizer tok --out my-run
  positronic train --model moa-20m --blend published-pretrain --take 50000 --tokenizer tok --out my-run
  positronic train --model moa-20m --data 'hf:roneneldan/TinyStories:train?take=9000#text' --tokenizer tok --out my-run
  positronic train --model positronic-15m --data my-text/ --tokenizer tok --optimizer muon --lr 2e-3 --out rings
  positronic train --resume --out my-run
  positronic train --resume --out my-run --chunk 1000 --ask "Once upon a time"
  positronic train --init my-run/last --data more.txt --out second-run --lr 3e-4
  positronic train --init my-run/last --reinit-embeddings --tokenizer other --data more.txt --out translated
  torchrun --nproc-per-node 2 -m positronic train --model tinygpt-15m --data text/ --tokenizer tok --out my-run

RUN/last is always the newest complete checkpoint. Ctrl-C writes one and says how to go on. In chunks a run becomes what
it would have become in one piece.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from positronic.cli.flags.run_flags import Training, TrainingFlags
from positronic.cli.parts.chunks import goes_on, next_stop, sample
from positronic.cli.parts.named_models import find_model_config
from positronic.cli.parts.training import execute, report_end
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.recipes import RunConfig


@dataclass(frozen=True)
class Command:
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    model: Annotated[str | None, tyro.conf.arg(metavar="PRESET|CONFIG.json")] = None
    """What to train; with --init, the other model's config when not given."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH[:WEIGHT] ...")] = ()
    """Text: txt, md, jsonl, json (also .gz, .xz, .zst), parquet, folders, hf:NAME; weights are shares of the tokens."""
    valid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Text to measure on; when not given, a hundredth of the data is held out."""
    blend: str | None = None
    """A named mixture: blend-v1 (files of the folder --data), published-pretrain or metric-pretrain (from the Hugging
    Face hub, or copies below the folder --data); see `positronic describe BLEND`."""
    take: int | None = None
    """Rows that a blend takes of its data sets, all together."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Tokenizer or checkpoint folder; with --init, the other model's when not given."""
    resume: bool = False
    """Go on with the run in --out."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Start from this checkpoint's weights, with a new optimizer and schedule."""
    reinit_embeddings: bool = False
    """With --init, for a --tokenizer of another vocabulary: keep the trunk, draw embedding and head anew."""
    chunk: int | None = None
    """Stop at the next multiple of so many steps; the schedule stays that of the whole run."""
    ask: Annotated[str | None, tyro.conf.arg(metavar="PROMPT")] = None
    """With --chunk: after every chunk let the model continue PROMPT, and ask whether to go on."""
    training: TrainingFlags = field(default_factory=Training)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: bool = False
    """Print one JSON object at the end."""

    def run(self) -> int:
        from positronic.recipes import read_run

        if self.ask is not None and self.chunk is None:
            raise ConfigError("--ask speaks after every chunk; say how long one is with --chunk STEPS.")
        if self.ask is not None and self.json:
            raise ConfigError("--ask talks to a person, --json to a program; leave one of them out.")
        if self.resume and self.tokenizer is not None:
            raise ConfigError("A run that goes on has its own tokenizer; leave --tokenizer out.")
        run = self.training.applied(self._given(read_run(self.out)) if self.resume else self._new())
        resume, tokenizer = self.resume, self.tokenizer or self.init
        while True:
            until = None if self.chunk is None else next_stop(self.out, self.chunk)
            given = {"device": self.device, "resume": resume, "tokenizer": None if resume else tokenizer}
            state = execute(run, self.out, **given, until=until)  # type: ignore[arg-type]
            if state is None:
                return 0
            if self.ask is None or state.stopped == "interrupted":
                break
            sample(self.out, self.ask, self.device)
            if state.stopped is not None or not goes_on():
                break
            resume = True
        again = f"positronic train --resume --out {self.out}"
        return report_end(state, self.out, as_json=self.json, resume=again)

    def _new(self) -> "RunConfig":
        from positronic.recipes import RunConfig

        if self.model is None and self.init is None:
            raise ConfigError("Say what to train: --model PRESET (see `positronic describe`), or --init FOLDER.")
        if not self.data and self.blend is None:
            raise ConfigError("Say what to train on: --data PATH ..., or --blend NAME.")
        if self.tokenizer is None and self.init is None:
            raise ConfigError("Give the tokenizer's folder: --tokenizer FOLDER (see `positronic tokenizer train`).")
        return self._given(RunConfig(model=find_model_config(self.model or str(self.init)), data=self.data))

    def _given(self, run: "RunConfig") -> "RunConfig":
        """`run` with the sources and the model that were named."""
        from positronic.recipes import blended

        data, valid = blended(self.blend, self.data, self.take, conversations=False)
        if data:
            run = replace(run, data=data)
        if self.valid or valid:
            run = replace(run, valid=self.valid or valid)
        if self.resume and self.model is not None:
            run = replace(run, model=find_model_config(self.model))
        if self.init is not None:
            run = replace(run, init=str(self.init))
        return replace(run, reinit_embeddings=True) if self.reinit_embeddings else run
