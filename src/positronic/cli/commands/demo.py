"""From nothing to a talking model: text from this machine's Python, a tokenizer, a model, a report.

Gathers the English and the code that every Python installation carries, learns 2,048 length-max tokens, trains
`positronic-tiny` (2.6 M parameters: attention, oscillators and all their organs; where the machine is too slow for it a
smaller one, which is said), measures it beside gzip and a unigram model on text it has not seen,
@@writes a checkpoint, a loss curve, reports and a page that replays the first sample in 3-D. Needs no network.

Examples:
  positronic demo
  positronic demo --minutes 2 --out quick
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any, NamedTuple

from positronic.cli.console import say, table
from positronic.cli.parts.demo_drafts import Drafted, with_and_without_drafts
from positronic.cli.parts.demo_size import Size, fitting, measured_bytes
from positronic.cli.parts.health_report import report_health
from positronic.cli.parts.view_page import write_view
from positronic.errors import GenerationError

VOCABULARY = 2048
HELD_OUT_ONE_IN = 20
LR, WARMUP = 2e-3, 10
LEAST_SHARE = 0.5
"""Of the time asked for, for training, however long everything else takes on a slow machine."""
RESERVE_S = 40
"""For what follows training: the final measurement, samples, the report, health, the view."""
HEALTH_BYTES = 8000
"""Of text that the model reads while its organs are looked at."""
PROMPTS = ("The value of the expression", "def __init__(self,", "If the object is")
DRAFTED_TOKENS = 80
REPLAYED: dict[str, Any] = {"tokens": 48, "temperature": 0.7, "top_p": 0.92}
OURS = "this model"


@dataclass(frozen=True)
class Command:
    minutes: float = 10.0
    """Wall time for everything after installation."""
    out: Path = Path("demo-run")
    """Folder for text, tokenizer, run and report; a number is added if it is taken."""
    seed: int = 0
    """The same seed on the same machine gives the same data and first weights."""

    def run(self) -> None:
        began = time.monotonic()
        out = _free(self.out)
        say(f"positronic demo: about {self.minutes:g} minutes, everything goes to {out}/\n")
        data = _text(out)
        tokenizer = _tokenizer(data, out)
        trained = self._train(data, tokenizer, out, began)
        table("Bits per byte of held-out text (lower is better)", ["", "bits/byte"], trained.scores.items())
        print(trained.verdict)
        samples = _samples(trained.model, tokenizer, self.seed)
        drafted = _drafted(trained.model, tokenizer)
        _say_aloud(samples, drafted)
        commands = _commands(out)
        _report(out, trained, tokenizer, samples, drafted, commands)
        say("\nIs every organ alive?")
        report_health(out / "run" / "last", max_bytes=HEALTH_BYTES, out=out / "health.html")
        write_view(out / "run" / "last", PROMPTS[0], out / "view.html", seed=self.seed, **REPLAYED)
        print(f"\nReport:     {out}/report.html\nCheckpoint: {out}/run/last\nNext:")
        print("\n".join(f"  {command}" for command in commands))
        say(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes.")

    def _train(self, data: tuple[str, ...], tokenizer: Any, out: Path, began: float) -> "_Trained":
        from positronic.checkpoint import load
        from positronic.data import heldout_documents
        from positronic.eval import baselines, bits_per_byte
        from positronic.recipes import RunConfig, train_run
        from positronic.train import MuonConfig, ScheduleConfig, TrainConfig, progress, read_events

        def left() -> float:
            """Minutes for training."""
            gone = (time.monotonic() - began + RESERVE_S) / 60
            return max(LEAST_SHARE * self.minutes, self.minutes - gone)

        size, slower = fitting(60 * left())
        measured = measured_bytes(size, 60 * left())
        _say_size(size, slower)
        held_out = heldout_documents(data, one_in=HELD_OUT_ONE_IN, budget_bytes=measured)
        texts = [document.text for document in held_out]
        others = baselines(tokenizer, texts, _training_texts(data))
        run = RunConfig(
            model=size.model,
            data=data,
            held_out_one_in=HELD_OUT_ONE_IN,
            valid_bytes=measured,
            model_seed=self.seed,
            data_seed=self.seed,
            train=TrainConfig(
                minutes=left(),
                steps=100_000,
                batch_tokens=size.batch_tokens,
                optimizer=MuonConfig(lr=LR),
                schedule=ScheduleConfig(warmup=WARMUP),
                seed=self.seed,
                checkpoint_every_s=60,
            ),
        )
        say(f"\nTraining for {run.train.minutes:.1f} minutes (Ctrl-C stops early and keeps what was learned) ...")
        state = train_run(run, out / "run", tokenizer=tokenizer, observers=[progress()], cache=out / "cache")
        model, _ = load(out / "run" / "last")
        before = next(e for e in read_events(out / "run" / "metrics.jsonl") if e["event"] == "evaluation")
        score = bits_per_byte(model, tokenizer, held_out)
        bits = {
            "a uniform guess": score.tokens * log2(tokenizer.vocab_size) / score.bytes,
            "this model before training": before["bits_per_byte"],
            "unigram model over the same tokens": others.unigram,
            "gzip -9": others.gzip,
            "xz -9": others.xz,
            OURS: score.bits_per_byte,
        }
        scores = {name: f"{score:.3f}" for name, score in sorted(bits.items(), key=lambda item: -item[1])}
        return _Trained(size, model, state.counters, scores, _verdict(score.bits_per_byte, others), others, texts)


class _Trained(NamedTuple):
    """A model and how good it is."""

    size: Size
    model: Any
    counters: Any
    scores: dict[str, str]
    """Bits per byte of held-out text, worst first."""
    verdict: str
    others: Any
    """Bits per byte of what is no language model."""
    held_out: list[str]


def _free(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist yet; made, so that it is nobody else's."""
    from positronic.checkpoint import usable

    taken = 1
    path = usable(wanted)
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            taken += 1
            path = wanted.with_name(f"{wanted.name}-{taken}")


def _text(out: Path) -> tuple[str, ...]:
    from positronic.data.sources.embedded import SHARES, gather

    english, code = gather(out / "text")
    say(f"Text: {english / 1e6:.2f} MB of documentation, {code / 1e6:.2f} MB of library code.")
    return tuple(f"{out / 'text' / name}.jsonl:{share}" for name, share in SHARES.items())


def _training_texts(data: tuple[str, ...]) -> Iterator[str]:
    from positronic.data import DataSpec, Split, open_source

    for path in data:
        yield from (document.text for document in Split(open_source(DataSpec.parse(path)), HELD_OUT_ONE_IN).train)


def _tokenizer(data: tuple[str, ...], out: Path) -> Any:
    from positronic.text import train_length_max

    began = time.monotonic()
    tokenizer = train_length_max(_training_texts(data), VOCABULARY)
    tokenizer.save(out / "tokenizer")
    say(f"Tokenizer: {tokenizer.vocab_size:,} entries in {time.monotonic() - began:.1f} s.")
    return tokenizer


def _say_size(size: Size, slower: list[Size]) -> None:
    """What is trained in place of what this machine is too slow for."""
    for other in slower:
        say(f"{other.name} would take {other.step_s:.1f} s a step on this machine, as busy as it is: too long.")
    if slower:
        say(f"So {size.name} learns, at {size.step_s:.1f} s a step and with rows of {size.model.context} tokens.")


def _verdict(ours: float, others: Any) -> str:
    beaten = "beats" if ours < others.unigram else "does NOT beat"
    winner = "gzip still wins" if others.gzip < ours else "it also beats gzip"
    return (
        f"The model {beaten} the unigram model ({ours:.3f} against {others.unigram:.3f} bits/byte); "
        f"{winner} ({others.gzip:.3f}), which has to learn the text while it compresses it."
    )


def _samples(model: Any, tokenizer: Any, seed: int) -> list[tuple[str, str]]:
    import positronic

    samples = []
    for prompt in PROMPTS:
        pieces = list(positronic.generate(model, tokenizer, prompt, max_new_tokens=80, temperature=0.7, seed=seed))
        samples.append((prompt, pieces[-1].result.text))
    return samples


def _drafted(model: Any, tokenizer: Any) -> Drafted | None:
    """The most likely text with drafts and without; None on a machine where no width of forwards is exact."""
    try:
        return with_and_without_drafts(model, tokenizer, PROMPTS[0], DRAFTED_TOKENS)
    except GenerationError as error:
        say(f"\nNo comparison of drafts here: {error}")
        return None


def _say_aloud(samples: list[tuple[str, str]], drafted: Drafted | None) -> None:
    for prompt, text in samples:
        print(f"\n{prompt}|{text}")
    if drafted is not None:
        print(f"\nThe most likely text:\n\n{drafted.prompt}|{drafted.plain.text}\n")
        speeds = drafted.table()
        table(speeds.title, speeds.columns, speeds.rows)
        print(speeds.note)


def _commands(out: Path) -> list[str]:
    binary = ".venv/bin/positronic" if Path(".venv/bin/positronic").exists() else "positronic"
    return [
        f"{binary} generate {out}/run/last --interactive",
        f'{binary} generate {out}/run/last --prompt "import" --temperature 0 --speculative --exact --stats',
        f"{binary} eval {out}/run/last --data README.md --without engram",
        f"{binary} train --init {out}/run/last --data {out}/text --out {out}/longer --minutes 30",
    ]


def _report(
    out: Path,
    trained: _Trained,
    tokenizer: Any,
    samples: list[tuple[str, str]],
    drafted: Drafted | None,
    commands: list[str],
) -> None:
    from positronic.observe import describe
    from positronic.viz import Report, draw_curve, write_report

    levels = {"gzip": trained.others.gzip, "unigram": trained.others.unigram}
    curve = out / "loss.png"
    drawn = draw_curve(out / "run" / "metrics.jsonl", curve, "demo: bits per byte while learning", levels)
    count = trained.counters
    measured = sum(len(text.encode()) for text in trained.held_out)
    facts = {
        "model": f"{trained.size.name}, {describe(trained.size.model).total:,} parameters",
        "tokenizer": f"length-max, {VOCABULARY:,} entries",
        "text": "documentation topics and standard library of this Python installation",
        "held out": f"{measured:,} bytes that were never trained on",
        "trained": f"{count.step:,} steps, {count.tokens:,} tokens, {count.seconds / 60:.1f} minutes",
    }
    report = Report(
        title="A language model this machine trained",
        summary=f"{count.tokens:,} tokens in {count.seconds / 60:.1f} minutes, on text every Python installation has.",
        facts=facts,
        scores=trained.scores,
        ours=OURS,
        verdict=trained.verdict,
        curve=curve if drawn else None,
        samples=samples,
        tables=[] if drafted is None else [drafted.table()],
        commands=commands,
    )
    write_report(report, out / "report.html")
