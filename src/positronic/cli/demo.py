"""From nothing to a talking model: text from this machine's Python, a tokenizer, a model, a report.

Gathers the English and the code that every Python installation carries, learns 2,048 length-max tokens, trains a
transformer of 3.3 M parameters, measures it beside gzip and a unigram model on text it has not seen, lets it speak, and
writes a checkpoint, a loss curve and a one-page report. Needs no network.

Examples:
  positronic demo
  positronic demo --minutes 2 --out quick
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

from positronic.cli.console import say, table
from positronic.cli.corpus import gather

MODEL = "positronic-tiny"
VOCABULARY = 2048
SHARES = {"english": 0.35, "code": 0.65}
HELD_OUT_ONE_IN = 20
MEASURED_BYTES = 120_000
RESERVE_S = 25
"""For what follows training: the final measurement, samples, the report."""
PROMPTS = ("The value of the expression", "def __init__(self,", "If the object is")


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
        before, after, baselines, state, model = self._train(data, tokenizer, out, began)
        samples = _samples(model, tokenizer, self.seed)
        scores = {"a uniform guess": before["uniform"], "this model before training": before["model"]}
        scores |= {"unigram model over the same tokens": baselines.unigram, "gzip -9": baselines.gzip}
        scores |= {"xz -9": baselines.xz, "this model": after}
        ranked = dict(sorted(scores.items(), key=lambda item: -item[1]))
        verdict = _verdict(after, baselines)
        table("Bits per byte of held-out text (lower is better)", ["", "bits/byte"], _formatted(ranked).items())
        print(verdict)
        for prompt, text in samples:
            print(f"\n{prompt}|{text}")
        commands = _commands(out)
        _report(out, state, ranked, baselines, verdict, samples, commands, before["bytes"])
        print(f"\nReport:     {out}/report.html\nCheckpoint: {out}/run/last\nNext:")
        print("\n".join(f"  {command}" for command in commands))
        say(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes.")

    def _train(self, data: tuple[str, ...], tokenizer: Any, out: Path, began: float) -> tuple[Any, ...]:
        from positronic.checkpoint import load
        from positronic.data import heldout_documents
        from positronic.eval import baselines, bits_per_byte
        from positronic.models import build, preset
        from positronic.recipes import RunConfig, fit_to, train_run
        from positronic.train import TrainConfig, progress

        held_out = heldout_documents(data, one_in=HELD_OUT_ONE_IN, budget_bytes=MEASURED_BYTES)
        others = baselines(tokenizer, [document.text for document in held_out], _training_texts(data))
        fresh: Any = build(fit_to(preset(MODEL), tokenizer), self.seed)
        first = bits_per_byte(fresh, tokenizer, held_out)
        uniform = first.tokens * log2(tokenizer.vocab_size) / first.bytes
        left = self.minutes - (time.monotonic() - began + RESERVE_S) / 60
        run = RunConfig(
            model=preset(MODEL),
            data=data,
            held_out_one_in=HELD_OUT_ONE_IN,
            valid_bytes=MEASURED_BYTES // 3,
            model_seed=self.seed,
            data_seed=self.seed,
            train=TrainConfig(
                minutes=max(0.2, left), steps=100_000, batch_tokens=2048, seed=self.seed, checkpoint_every_s=60
            ),
        )
        say(f"\nTraining for {run.train.minutes:.1f} minutes (Ctrl-C stops early and keeps what was learned) ...")
        state = train_run(run, out / "run", tokenizer=tokenizer, observers=[progress()], cache=out / "cache")
        model, _ = load(out / "run" / "last")
        after = bits_per_byte(model, tokenizer, held_out).bits_per_byte
        return {"model": first.bits_per_byte, "uniform": uniform, "bytes": first.bytes}, after, others, state, model


def _free(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist yet."""
    taken = 1
    path = wanted
    while path.exists():
        taken += 1
        path = wanted.with_name(f"{wanted.name}-{taken}")
    return path


def _text(out: Path) -> tuple[str, ...]:
    english, code = gather(out / "text")
    say(f"Text: {english / 1e6:.2f} MB of documentation, {code / 1e6:.2f} MB of library code.")
    return tuple(f"{out / 'text' / name}.jsonl:{share}" for name, share in SHARES.items())


def _training_texts(data: tuple[str, ...]) -> Iterator[str]:
    from positronic.data import DataSpec, Split, open_source

    for path in data:
        yield from (document.text for document in Split(open_source(DataSpec.parse(path)), HELD_OUT_ONE_IN).train)


def _tokenizer(data: tuple[str, ...], out: Path) -> Any:
    from positronic.text import train_spike

    began = time.monotonic()
    tokenizer = train_spike(_training_texts(data), VOCABULARY)
    tokenizer.save(out / "tokenizer")
    say(f"Tokenizer: {tokenizer.vocab_size:,} entries in {time.monotonic() - began:.1f} s.")
    return tokenizer


def _samples(model: Any, tokenizer: Any, seed: int) -> list[tuple[str, str]]:
    import positronic

    samples = []
    for prompt in PROMPTS:
        pieces = list(positronic.generate(model, tokenizer, prompt, max_new_tokens=80, temperature=0.7, seed=seed))
        samples.append((prompt, pieces[-1].result.text))
    return samples


def _verdict(ours: float, others: Any) -> str:
    beaten = "beats" if ours < others.unigram else "does NOT beat"
    winner = "gzip still wins" if others.gzip < ours else "it also beats gzip"
    return (
        f"The model {beaten} the unigram model ({ours:.3f} against {others.unigram:.3f} bits/byte); "
        f"{winner} ({others.gzip:.3f}), which has to learn the text while it compresses it."
    )


def _commands(out: Path) -> list[str]:
    binary = ".venv/bin/positronic" if Path(".venv/bin/positronic").exists() else "positronic"
    return [
        f"{binary} generate {out}/run/last --interactive",
        f"{binary} eval {out}/run/last --data README.md",
        f"{binary} train --init {out}/run/last --data {out}/text --out {out}/longer --minutes 30",
    ]


def _report(
    out: Path,
    state: Any,
    scores: dict[str, float],
    others: Any,
    verdict: str,
    samples: list[tuple[str, str]],
    commands: list[str],
    measured_bytes: int,
) -> None:
    from positronic.models import preset
    from positronic.observe import describe
    from positronic.viz import Report, draw_curve, write_report

    levels = {"gzip": others.gzip, "unigram": others.unigram}
    curve = out / "loss.png"
    drawn = draw_curve(out / "run" / "metrics.jsonl", curve, "demo: bits per byte while learning", levels)
    count = state.counters
    facts = {
        "model": f"tinygpt-tiny, {describe(preset(MODEL)).total:,} parameters",
        "tokenizer": f"length-max, {VOCABULARY:,} entries",
        "text": "documentation topics and standard library of this Python installation",
        "held out": f"{measured_bytes:,} bytes that were never trained on",
        "trained": f"{count.step:,} steps, {count.tokens:,} tokens, {count.seconds / 60:.1f} minutes",
    }
    report = Report(
        title="A language model this machine trained",
        summary=f"{count.tokens:,} tokens in {count.seconds / 60:.1f} minutes, on text every Python installation has.",
        facts=facts,
        scores=_formatted(scores),
        ours="this model",
        verdict=verdict,
        curve=curve if drawn else None,
        samples=samples,
        commands=commands,
    )
    write_report(report, out / "report.html")


def _formatted(scores: dict[str, float]) -> dict[str, str]:
    return {name: f"{score:.3f}" for name, score in scores.items()}
