"""Tune a model on conversations by LoRA: thin matrices beside its linear maps learn, the model itself stays (PEFT).

Reads what `positronic sft` reads. RUN becomes an adapter folder in PEFT's form; --merge adds what was learned to the
weights and writes a checkpoint of the same family and size. The loop is Transformers' Trainer: a run that was stopped
goes on from the newest of its own checkpoints, RUN/checkpoint-STEP.

Examples:
  positronic lora --model tuned/last --data chats.jsonl --out adapter
  positronic lora --model tuned/last --data chats.jsonl --rank 16 --targets qkv out --out adapter --merge merged
  positronic lora --resume --out adapter
  positronic lora --resume --out adapter --merge merged        # a finished run is merged, no step is added
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from positronic.cli.console import print_json, say
from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.adapters.lora import LoRAConfig

MEASURED = 200
"""Held-out conversations that are scored before and after, at most."""


@dataclass(frozen=True)
class Command:
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Where the adapter goes."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Checkpoint to adapt; its tokenizer is used."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH[:WEIGHT] ...")] = ()
    """Conversations; a hundredth is held out to measure on."""
    fill_names: bool = False
    """Fill {{name}} and {{author}} in the conversations with the model's name and its makers'."""
    merge: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write the model with the adapter merged into it here."""
    rank: int = 8
    """Rank of what is added to each matrix."""
    alpha: float = 16.0
    """What is added is multiplied by alpha / rank."""
    targets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Ends of the names of linear maps to adapt; all that a token passes through when not given."""
    steps: int | None = None
    """Updates of the adapter."""
    epochs: float = 3.0
    """How often the conversations are read, when --steps is not given."""
    lr: float = 2e-3
    """Peak learning rate."""
    batch_tokens: int = 16_384
    """Tokens an update."""
    seq_len: int | None = None
    """Tokens a row; the model's context when not given."""
    checkpoint_every: int = 100
    """Steps between checkpoints to resume from."""
    seed: int = 0
    """Of the adapter's first weights and the order of rows."""
    resume: bool = False
    """Go on with the run in --out, with the settings it was begun with."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        try:
            from positronic.adapters.lora import names_of, read_settings, tune
        except ImportError as error:
            raise ConfigError(f"{error}") from error
        from positronic.checkpoint import load, vacant
        from positronic.data import heldout_conversations
        from positronic.eval import assistant_bits_per_byte, scorable
        from positronic.train import progress

        if self.merge is not None:
            vacant(self.merge, "merged model")
        config = read_settings(self.out) if self.resume else self._new()
        before, tokenizer = load(config.model)
        seq_len = config.seq_len or before.config.context
        unseen = heldout_conversations(config.data, names=names_of(config))
        few = scorable(tokenizer, unseen, seq_len, at_most=MEASURED)
        start = time.perf_counter()
        try:
            tuned = tune(config, self.out, go_on=self.resume, device=self.device, observer=progress())
        except KeyboardInterrupt:
            say(f"Go on from the newest checkpoint with:\n  positronic lora --resume --out {self.out}")
            raise
        found = tuned.report | {"seconds": round(time.perf_counter() - start, 3)}
        if few:
            found["bits_per_byte"] = {
                "before": assistant_bits_per_byte(before, tokenizer, few, seq_len=seq_len).bits_per_byte,
                "after": assistant_bits_per_byte(tuned.lm, tokenizer, few, seq_len=seq_len).bits_per_byte,
            }
        if self.merge is not None:
            tuned.merge(self.merge)
            found["merged"] = str(self.merge)
        if self.json:
            print_json(found)
            return
        parameters = found["parameters"]
        say(
            f"{found['step']:,} steps; {found['adapted']} matrices adapted by {parameters['adapter']:,} parameters, "
            f"{parameters['adapter'] / parameters['model']:.1%} of the model's. The adapter is in {self.out}."
        )
        if few:
            say("Held-out bits/byte of the assistant {before:.4f} -> {after:.4f}".format(**found["bits_per_byte"]))
        else:
            say("Nothing was measured: no conversation that fits a row could be held out.")
        again = f"positronic lora --resume --out {self.out} --merge MERGED"
        say(f"  {again if self.merge is None else f'positronic chat {self.merge}'}")

    def _new(self) -> "LoRAConfig":
        from positronic.adapters.lora import LoRAConfig

        if self.model is None or not self.data:
            raise ConfigError("An adapter needs a model and conversations: --model FOLDER --data PATH ...")
        return LoRAConfig(
            model=str(self.model),
            data=self.data,
            fill_names=self.fill_names,
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            steps=self.steps,
            epochs=self.epochs,
            lr=self.lr,
            batch_tokens=self.batch_tokens,
            seq_len=self.seq_len,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )
