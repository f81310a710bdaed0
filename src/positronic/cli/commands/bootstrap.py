"""Make a small model ready for training: look at the machine, get text, learn a vocabulary, begin the run.

Four steps, each skipped where it is done already, so that the same line goes on after a kill at any point:

  1  what this machine can do: device, precision, tokens an update that fit its memory, and why
  2  text: TinyStories where there is a network, else --data, else what comes with Python
  3  a BPE vocabulary, learned by our own trainer or by SentencePiece, RUN/tokenizer/tokenizer.json
  4  a run of the small recipe (5,000 steps of 512-token rows), with its first checkpoint

Training it is `positronic train --resume --out RUN`.

Examples:
  positronic bootstrap
  positronic bootstrap --mixer oscillator --size tiny --out rings
  positronic bootstrap --data my-stories/ --vocab-size 8192 --out mine
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from positronic.cli.console import say
from positronic.cli.flags.run_flags import Training, TrainingFlags
from positronic.cli.parts.named_models import find_model_config
from positronic.cli.parts.training import execute
from positronic.errors import ConfigError, DataError, TokenizerError

if TYPE_CHECKING:
    from positronic.config import ModelConfig

LEARN_FROM = 50_000_000
"""Bytes of text that a vocabulary is learned from, at most."""
NAMED = ("embedded", "tinystories")


@dataclass(frozen=True)
class Command:
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")] = Path("tiny-llm")
    """The run's folder; text and tokenizer go into it too."""
    mixer: Literal["attention", "oscillator", "colony", "metric", "hybrid"] | None = None
    """Family of the model; attention when not given."""
    size: Literal["15m", "tiny"] | None = None
    """About 15 million parameters (when not given), or 2 to 4 million for a CPU."""
    model: Annotated[str | None, tyro.conf.arg(metavar="PRESET|CONFIG.json")] = None
    """Any other model, in place of --mixer and --size."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH[:WEIGHT] ...")] = ()
    """Text of your own; or the words tinystories and embedded."""
    tokenizer: Literal["bpe", "sentencepiece"] = "bpe"
    """Who learns the vocabulary: we, or the library sentencepiece (positronic[sentencepiece] installs it)."""
    vocab_size: int | None = None
    """Entries of the tokenizer, 256 bytes and 128 control tokens included: 16,512, sentencepiece 16,000, tiny 4,096."""
    training: TrainingFlags = field(default_factory=Training)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""

    def run(self) -> None:
        from positronic.checkpoint import RunFolder

        newest = RunFolder(self.out).newest()
        if newest is None:
            self._begin()
        else:
            self._check_same(newest)
            say(f"{self.out} stands at step {int(newest.name.rpartition('-')[2]):,}: nothing to prepare.")
        say(f"Next:\n  positronic train --resume --out {self.out}")

    def _begin(self) -> None:
        from positronic.checkpoint import RunFolder
        from positronic.recipes.memory_estimate import estimate_here
        from positronic.recipes.tiny import SENTENCEPIECE, STEPS, VOCABULARY, tiny_run

        model, given = self._model(), self.training
        usual = VOCABULARY if self.tokenizer == "bpe" else SENTENCEPIECE
        entries = self.vocab_size or (usual[self.size or "15m"] if self.model is None else model.vocab_size)
        model = model.replace(vocab_size=entries)
        found = estimate_here(model, self.device, given.precision or "auto", given.batch_tokens)
        say("\n".join(f"{what:18}{value:26}{why}" for what, value, why in found.table()))
        if found.device == "cpu" and (self.model, self.size) == (None, None):
            say("A CPU takes many hours for this size; SIZE=tiny (--size tiny) has 2 to 4 million parameters.")
        with RunFolder(self.out).held():
            data = self._text()
            tokenizer = self._tokenizer(data, entries)
        run = tiny_run(
            model,
            data,
            batch_tokens=found.batch_tokens,
            micro_rows=found.micro_rows,
            steps=given.steps or STEPS,
        )
        execute(given.applied(run), self.out, device=self.device, resume=False, tokenizer=tokenizer, until=0)

    def _model(self) -> "ModelConfig":
        from positronic.recipes.tiny import CONTEXT, tiny_model

        if self.model is None:
            return tiny_model(self.mixer or "attention", self.size or "15m", self.training.seq_len or CONTEXT)
        if self.mixer is not None or self.size is not None:
            raise ConfigError("--model names the whole model; leave --mixer and --size out, or --model.")
        return find_model_config(self.model).replace(context=self.training.seq_len or CONTEXT)

    def _check_same(self, newest: Path) -> None:
        """Refuse what was asked for and is not what the run was begun with."""
        from positronic.config import diff
        from positronic.recipes import read_run
        from positronic.text import Tokenizer

        saved = read_run(self.out)
        wanted = self.training.applied(saved)
        if (self.model, self.mixer, self.size) != (None, None, None):
            wanted = replace(wanted, model=self._model().replace(vocab_size=saved.model.vocab_size))
        if self.data and self.data[0] not in NAMED:
            wanted = replace(wanted, data=self.data)
        lines = diff(saved, wanted)
        entries = Tokenizer.load(newest).vocab_size
        if self.vocab_size not in (None, entries):
            lines.append(f"vocabulary: {entries} -> {self.vocab_size}")
        if lines:
            raise ConfigError(
                f"{self.out} was begun with other settings (its own -> yours): {'; '.join(lines)}. "
                f"Leave them out to go on with it, or begin another run: --out, in scripts RUN=."
            )

    def _text(self) -> tuple[str, ...]:
        """What is trained on, as `--data` takes it."""
        from positronic.data import heldout_documents
        from positronic.data.sources.embedded import SHARES
        from positronic.recipes.tiny import VALID_BYTES

        if self.data and self.data[0] not in NAMED:
            heldout_documents(self.data, budget_bytes=VALID_BYTES)  # too short: said before a vocabulary is learned
            return self.data
        wanted = self.data or NAMED
        there = next((name for name in wanted if (self.out / "text" / name).is_dir()), None)
        name = there or self._gathered(wanted)
        folder = self.out / "text" / name
        shares = SHARES if name == "embedded" else {"stories": 1.0}
        return tuple(f"{folder / file}.jsonl:{share}" for file, share in shares.items())

    def _gathered(self, wanted: tuple[str, ...]) -> str:
        """Put text below RUN/text; the name of its source."""
        from positronic.data.sources import tinystories

        if "tinystories" in wanted:
            reason = tinystories.out_of_reach()
            if reason is None:
                say("Text: fetching TinyStories (CDLA-Sharing-1.0) ...")
                self._write("tinystories", lambda folder: tinystories.fetch(folder / "stories.jsonl"))
                return "tinystories"
            if wanted == ("tinystories",):
                raise DataError(f"TinyStories is out of reach: {reason}. {tinystories.WAYS}")
            say(f"No TinyStories: {reason}. {tinystories.WAYS} The last one serves now.")
        self._write("embedded", _embedded)
        return "embedded"

    def _write(self, name: str, write: Callable[[Path], int]) -> None:
        from positronic.checkpoint.atomic import appearing

        with appearing(self.out / "text" / name) as folder:
            size = write(folder)
        say(f"Text: {size / 1e6:.1f} MB -> {self.out / 'text' / name}")

    def _tokenizer(self, data: tuple[str, ...], entries: int) -> Path:
        """The folder of the vocabulary, learned now or before."""
        from positronic.checkpoint.atomic import appearing, standing
        from positronic.text import Tokenizer, train_bpe, train_sentencepiece

        folder = self.out / "tokenizer"
        if standing(folder).is_dir():
            tokenizer = Tokenizer.load(standing(folder))
            if tokenizer.vocab_size != entries:
                raise TokenizerError(
                    f"{folder} has {tokenizer.vocab_size:,} entries, and {entries:,} are asked for. Delete that folder "
                    f"to learn another vocabulary, or ask for --vocab-size {tokenizer.vocab_size}."
                )
            say(f"Tokenizer: {folder} stands, {entries:,} entries.")
            return standing(folder)
        began = time.monotonic()
        train = train_bpe if self.tokenizer == "bpe" else train_sentencepiece
        learned = train(training_texts(data), entries)
        with appearing(folder) as new:
            learned.save(new)
        say(f"Tokenizer: {entries:,} entries in {time.monotonic() - began:.1f} s -> {folder}")
        return folder


def _embedded(folder: Path) -> int:
    """Documentation and code that come with Python."""
    from positronic.data.sources.embedded import gather
    from positronic.data.sources.tinystories import WAYS

    try:
        sizes = gather(folder)
    except ImportError:
        sizes = (0, 0)
    if not all(sizes):
        raise DataError(f"This Python comes without its documentation or its library's source. {WAYS}")
    return sum(sizes)


def training_texts(data: tuple[str, ...]) -> Iterator[str]:
    """What a vocabulary may be learned from: of each source an equal part, and nothing that is held out."""
    from positronic.data import DataSpec, Split, excerpt, open_source

    for spec in map(DataSpec.parse, data):
        train = Split(open_source(spec)).train
        yield from (document.text for document in excerpt(train, LEARN_FROM // len(data)))
