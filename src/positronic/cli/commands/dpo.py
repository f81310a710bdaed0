"""Teach a tuned model which of two answers is preferred (direct preference optimisation).

Reads json and jsonl (also .gz, .xz, .zst), parquet, folders of these and data sets of the Hugging Face hub (hf:NAME)
with a chosen and a rejected answer: sharegpt, prompt with messages or text, instructions, transcripts of Human: and
Assistant:, and votes on two responses.

Examples:
  positronic dpo --model tuned/last --data preferences.jsonl --out preferred
  positronic dpo --model tuned/last --data preferences/ --beta 0.3 --epochs 2 --out preferred
  positronic dpo --resume --out preferred
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from positronic.cli.console import say
from positronic.cli.flags.run_flags import Training, TrainingFlags
from positronic.cli.parts.training import execute, report_end
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.recipes import RunConfig

LEARNING_RATE = 5e-6
BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Command:
    model: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Checkpoint to start from and to compare with; its tokenizer is used."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH[:WEIGHT] ...")] = ()
    """Pairs of answers."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """The run's folder."""
    valid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Pairs to measure on; when not given, a hundredth is held out."""
    beta: float = 0.1
    """How strongly the model is held to what it was."""
    epochs: float | None = None
    """How often the pairs are read (once when neither this nor --steps is given)."""
    training: TrainingFlags = field(default_factory=Training)
    resume: bool = False
    """Go on with the run in --out."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        from positronic.recipes import read_run

        if self.out is None:
            raise ConfigError("Say where the run goes: --out RUN.")
        run = self.training.applied(read_run(self.out) if self.resume else self._new())
        tokenizer = None if self.resume else self.model
        state = execute(run, self.out, device=self.device, resume=self.resume, tokenizer=tokenizer)
        if state is None:
            return 0
        code = report_end(state, self.out, as_json=self.json, resume=f"positronic dpo --resume --out {self.out}")
        if code == 0 and not self.json:
            say(f"  positronic chat {self.out}/last")
        return code

    def _new(self) -> "RunConfig":
        from positronic.checkpoint import read_config
        from positronic.recipes import RunConfig
        from positronic.train import AdamWConfig, DPOConfig, TrainConfig

        if self.model is None or not self.data:
            raise ConfigError("Preferences need a model and pairs of answers: --model FOLDER --data PATH ...")
        train = TrainConfig(
            objective=DPOConfig(beta=self.beta),
            optimizer=AdamWConfig(lr=LEARNING_RATE, weight_decay=0.0),
            batch_tokens=BATCH_TOKENS,
            evaluate_every=50,
        )
        return RunConfig(
            model=read_config(self.model),
            data=self.data,
            valid=self.valid,
            epochs=self.training.epochs(self.epochs, usual=1.0),
            train=train,
            init=str(self.model),
        )
