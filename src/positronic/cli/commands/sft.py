"""Tune a model on conversations: only what the assistant says is learned.

Reads json, jsonl and tsv (also .gz, .xz, .zst), parquet, folders of these and data sets of the Hugging Face hub, in the
usual shapes: messages, conversations, instruction/output, question/answer, prompt/response, problem/solution.

Examples:
  positronic sft --model my-run/last --data chats.jsonl --out tuned
  positronic sft --model my-run/last --data chats/ --replay book.txt --epochs 2 --out tuned
  positronic sft --model my-run/last --data chats.jsonl --show-mask
  positronic sft --model my-run/last --blend published-sft --take 20000 --out tuned
  positronic sft --model my-run/last --data 'hf:HuggingFaceH4/ultrachat_200k:train_sft?take=5000' --out tuned
  positronic sft --resume --out tuned
  positronic sft --or-resume --model my-run/last --data chats.jsonl --out tuned     # the same line begins and goes on
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from positronic.cli.console import print_json, say
from positronic.cli.flags.run_flags import Training, TrainingFlags
from positronic.cli.parts.training import execute, report_end
from positronic.cli.terminal import paint, visible
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.recipes import RunConfig

LEARNING_RATE = 5e-4
BATCH_TOKENS = 16_384
LAST = 5
"""Steps over which the training loss at the end is averaged."""


@dataclass(frozen=True)
class Command:
    model: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Checkpoint to start from; its tokenizer is used."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH[:WEIGHT] ...")] = ()
    """Conversations."""
    blend: str | None = None
    """A named mixture: published-sft or metric-sft, from the Hugging Face hub or copies below the folder --data; see
    `positronic describe BLEND`."""
    take: int | None = None
    """Rows that a blend takes of its data sets, all together."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """The run's folder."""
    valid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Conversations to measure on; when not given, a hundredth is held out."""
    replay: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")] = ()
    """Plain text of which 2 % is mixed in, so that the model does not forget it."""
    fill_names: bool = False
    """Fill {{name}} and {{author}} in the conversations with the model's name and its makers'; else they are learned as
    they are written."""
    epochs: float | None = None
    """How often the conversations are read (3 when neither this nor --steps is given)."""
    training: TrainingFlags = field(default_factory=Training)
    resume: bool = False
    """Go on with the run in --out."""
    or_resume: bool = False
    """Begin the run, or go on with it where --out holds it already."""
    show_mask: bool = False
    """Print the first conversation token by token, with what is learned, and do nothing else."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        from positronic.checkpoint import RunFolder
        from positronic.recipes import read_run

        if self.show_mask:
            self._show_mask()
            return 0
        if self.out is None:
            raise ConfigError("Say where the run goes: --out RUN.")
        run = self.training.applied(read_run(self.out) if self.resume else self._new())
        resume = self.resume or (self.or_resume and RunFolder(self.out).newest() is not None)
        tokenizer = None if resume else self.model
        state = execute(run, self.out, device=self.device, resume=resume, tokenizer=tokenizer)
        if state is None:
            return 0
        code = report_end(state, self.out, as_json=self.json, resume=f"positronic sft --resume --out {self.out}")
        if code == 0 and not self.json:
            say(f"  positronic chat {self.out}/last")
            say(_losses(self.out))
        return code

    def _new(self) -> "RunConfig":
        from positronic.checkpoint import read_config
        from positronic.recipes import RunConfig
        from positronic.train import AdamWConfig, SFTConfig, TrainConfig

        data = self._sources()
        if self.model is None or not data:
            raise ConfigError("Tuning needs a model and conversations: --model FOLDER --data PATH ...")
        train = TrainConfig(
            objective=SFTConfig(),
            optimizer=AdamWConfig(lr=LEARNING_RATE),
            batch_tokens=BATCH_TOKENS,
            evaluate_every=100,
        )
        return RunConfig(
            model=read_config(self.model),
            data=data,
            conversations=True,
            replay=self.replay,
            fill_names=self.fill_names,
            valid=self.valid,
            epochs=self.training.epochs(self.epochs, usual=3.0),
            train=train,
            init=str(self.model),
        )

    def _sources(self) -> tuple[str, ...]:
        from positronic.recipes import blended

        return blended(self.blend, self.data, self.take, conversations=True)[0]

    def _show_mask(self) -> None:
        from positronic.data import NAMES, UNFILLED, open_chats
        from positronic.text import Tokenizer, render

        data = self._sources()
        if self.model is None or not data:
            raise ConfigError("--show-mask needs a tokenizer and conversations: --model FOLDER --data PATH ...")
        tokenizer = Tokenizer.load(self.model)
        conversation = next(iter(open_chats(data[0], NAMES if self.fill_names else UNFILLED)))
        ids, mask = render(tokenizer, conversation.messages)
        pieces = [tokenizer.decode([i], special=True) for i in ids]
        if self.json:
            rows = [{"id": i, "text": t, "loss": m} for i, t, m in zip(ids, pieces, mask, strict=True)]
            print_json({"conversation": conversation.name, "tokens": rows, "learned": sum(mask)})
            return
        bold, plain = ("\033[1;32m", "\033[0m") if sys.stdout.isatty() else ("", "")
        print(f"{conversation.name}: {len(ids)} tokens, {sum(mask)} learned")
        for place, (i, piece, learned) in enumerate(zip(ids, pieces, mask, strict=True)):
            mark = f"{bold}learn{plain}" if learned else "     "
            paint(f"{place:5}  {i:6}  {mark}  {visible(repr(piece))}\n")


def _losses(out: Path) -> str:
    """What a token of the assistant costs, in training and on conversations held out, in nats."""
    from positronic.train import read_events

    events = read_events(out / "metrics.jsonl")
    trained = [e["loss"] for e in events if e["event"] == "step" and e["loss"] is not None]
    held_out = [e["loss"] for e in events if e["event"] == "evaluation" and e["loss"] is not None]
    last = trained[-LAST:]
    said = f"Training loss {trained[0]:.3f} -> {sum(last) / len(last):.3f}"
    if held_out:
        said += f", dev loss {held_out[0]:.3f} -> {held_out[-1]:.3f}, at best {min(held_out):.3f}"
    return f"{said} (nats a token of the assistant)."
