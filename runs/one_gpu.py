"""The small pipeline's recipe at its full size on blend-v1, and the curve that `positronic doctor` compares it with.

    python runs/one_gpu.py prepare --text TEXT --tokenizer TOK --out OUT
    python runs/one_gpu.py curve --seeds 6 --until 1000 --text TEXT --tokenizer TOK --out OUT [--device cuda:0 cuda:1]
    python runs/one_gpu.py train --seed 0 --text TEXT --tokenizer TOK --out OUT
    python runs/one_gpu.py report --out OUT [--page docs/results/positron.md]

The run is the one that `positronic bootstrap` begins on a GPU for these texts. TOK is the vocabulary that it would
learn from them: `prepare` learns it where there is none, and brings the texts into tokens. `curve` trains the first
steps of the run, once a seed, side by side (OUT/seed-0, OUT/seed-1, ...), and learns OUT/tinygpt-15m-blend-v1.json.
`train` goes on to the end of one and measures it (OUT/seed-0.json); `report` writes the page's section and the JSON
beside it. All go on where they stopped, after --stop-after seconds say. What `report` and `positronic reference` read
of a seed's folder is run.json and metrics.jsonl.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiment import BLEND, StopsAfter, circumstances, opened, samples, scores, train, write_json
from pages import continuations, course, put_section

from positronic.checkpoint import RunFolder
from positronic.cli.commands.bootstrap import training_texts
from positronic.cli.parts.named_models import find_model_config
from positronic.data import DataSpec, Split, open_source, tokenise
from positronic.observe import describe
from positronic.recipes import RunConfig, blend
from positronic.recipes.doctor import LEAST_LOSS, examine
from positronic.recipes.reference import LEAST_SEEDS, Reference, learn_from
from positronic.recipes.tiny import CONTEXT, STEPS, VOCABULARY, tiny_run
from positronic.text import Tokenizer, train_bpe
from positronic.train import read_events

HEADING = "## The small pipeline on one GPU"
BATCH_TOKENS = 16_384


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "curve", "train", "report"))
    for name in ("--text", "--tokenizer"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, default=Path("docs/results/positron.md"))
    parser.add_argument("--model", default="tinygpt-15m", help="a preset or CONFIG.json")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the whole schedule")
    parser.add_argument("--until", type=int, help="the last step of this call; curve: of every seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=6, help="of a curve")
    parser.add_argument("--stop-after", type=float, default=float("inf"))
    parser.add_argument("--device", nargs="+", default=["auto"], help="several are dealt out to the seeds in turn")
    parser.add_argument("--note", default="", help="what a curve should be read with: machine, precision")
    a = parser.parse_args(words)
    a.out.mkdir(parents=True, exist_ok=True)
    {"prepare": prepare, "curve": curve, "train": pretrain, "report": report}[a.what](a)


def recipe(a: argparse.Namespace, tokenizer: Tokenizer) -> RunConfig:
    """The run of a seed."""
    model = find_model_config(a.model).replace(context=CONTEXT, vocab_size=tokenizer.vocab_size)
    data = blend(BLEND).data(a.text)
    return tiny_run(model, data, batch_tokens=a.batch_tokens, steps=a.steps, seed=a.seed)


def prepare(a: argparse.Namespace) -> dict[str, int]:
    """A vocabulary where there is none; tokens of each text in the cache, where all seeds find them."""
    data = blend(BLEND).data(a.text)
    if not a.tokenizer.exists():
        train_bpe(training_texts(data), VOCABULARY["15m"]).save(a.tokenizer)
    tokenizer, tokens = Tokenizer.load(a.tokenizer), {}
    for spec in map(DataSpec.parse, data):
        shard = tokenise(Split(open_source(spec)).train, tokenizer, cache=a.out / "cache")
        tokens[Path(spec.path).name] = shard.manifest["tokens"]
    return tokens


def curve(a: argparse.Namespace) -> None:
    """Every seed to step `until` in a process of its own; then what they have in common."""
    prepare(a)
    a.until = a.until or a.steps
    folders = [a.out / f"seed-{seed}" for seed in range(a.seeds)]
    waiting = {seed: _started(a, seed) for seed, run in enumerate(folders) if _step(run) < a.until}
    if failed := [seed for seed, code in [(seed, process.wait()) for seed, process in waiting.items()] if code]:
        log = a.out / f"seed-{failed[0]}.log"
        raise SystemExit(f"Of the seeds failed {failed}; {log} ends:\n{log.read_text('utf-8')[-2000:]}")
    if behind := [f"{run.name} at step {_step(run):,}" for run in folders if _step(run) < a.until]:
        print(f"{', '.join(behind)}; the same command goes on")
        return
    learned = learn_from(folders, _name(a), note=a.note)
    learned.save(_curve(a))
    print(f"{learned.seeds} seeds, {learned.ends[-1]:,} steps -> {_curve(a)}")
    print(f"seed 0 beside it: {examine(folders[0], [learned]).words}")


def pretrain(a: argparse.Namespace) -> None:
    """One seed: trained, or trained on, and measured at its end."""
    tokenizer, out = Tokenizer.load(a.tokenizer), a.out / f"seed-{a.seed}"
    device, run = a.device[a.seed % len(a.device)], recipe(a, tokenizer)
    until = None if a.until is None or a.until >= a.steps else a.until
    result = train(run, out, tokenizer, device, [StopsAfter(a.stop_after)], until)
    if not result["finished"]:
        print(f"{out.name}: step {result['step']:,} of {result['steps']:,}; the same command without --until goes on")
        return
    best, one_pass = opened(out / "best", device), prepare(a)
    shares = dict(zip(one_pass, blend(BLEND).shares.values(), strict=True))
    found = {
        **circumstances(_command(a), device, tokenizer),
        "preset": a.model,
        "seed": a.seed,
        "parameters": describe(best.config).total,
        "blend": BLEND,
        "epochs": result["tokens"] / sum(one_pass.values()),
        "epochs_of": {name: result["tokens"] * shares[name] / tokens for name, tokens in one_pass.items()},
        "training": result,
        "scores": scores(best, tokenizer, a.text, device),
        "samples": samples(best, tokenizer),
    }
    write_json(a.out / f"{out.name}.json", found)
    print(json.dumps(found["scores"], indent=1))


def report(a: argparse.Namespace) -> None:
    """The section of the page, and one-gpu.json in the folder beside it."""
    found = json.loads((a.out / f"seed-{a.seed}.json").read_text("utf-8"))
    found["curve"] = judged(a, Reference.load(_curve(a)))
    put_section(a.page, section(found, a.page))
    a.page.with_suffix("").mkdir(exist_ok=True)
    write_json(a.page.with_suffix("") / "one-gpu.json", found)


def judged(a: argparse.Namespace, learned: Reference) -> dict[str, Any]:
    """The curve where it ends, and what `doctor` says of each seed beside a curve of the others."""
    runs = [a.out / name for name in learned.made["runs"]]
    verdicts = {}
    if len(runs) > LEAST_SEEDS:
        for run in runs:
            others = learn_from([other for other in runs if other != run], "others")
            verdicts[run.name] = examine(run, [others]).verdict
    edge = float(learned.loss.edge(learned.seeds, LEAST_LOSS * learned.loss.mean[-1])[-1])
    until = min(max(e["step"] for e in read_events(run / "metrics.jsonl")) for run in runs)
    about = {"name": learned.name, "seeds": learned.seeds, "until": until, "steps": learned.ends[-1]}
    about["note"] = learned.made["note"]
    return about | {"loss": learned.loss.mean[-1], "edge": edge, "left_out": verdicts}


def section(found: dict[str, Any], page: Path) -> str:
    """The result as a section of the page."""
    training, learned = found["training"], found["curve"]
    best_bits = min(bits for _, bits in training["held_out"])
    memory, epochs = training["peak_memory_gb"], ", ".join(f"{name} {n:.1f}" for name, n in found["epochs_of"].items())
    normal = sum(verdict == "normal" for verdict in learned["left_out"].values())
    beside = f"Each seed beside a curve of the others is normal in {normal} of {len(learned['left_out'])} cases."
    lines = [
        HEADING,
        "",
        f"`{found['preset']}` ({found['parameters']:,} parameters, {found['tokenizer']['kind']} vocabulary of "
        f"{found['tokenizer']['vocab_size']:,}) on {found['blend']}, seed {found['seed']}: {training['steps']:,} steps "
        f"of {training['batch_tokens']:,} tokens, {training['tokens'] / 1e6:.1f} M tokens, {found['epochs']:.1f} "
        f"epochs of the texts together ({epochs}).",
        f"{training['speed']['tokens_per_s']:,.0f} tokens/s in the median step, {training['seconds'] / 60:.1f} minutes "
        f"in the loop, the steps of the curve beside its other seeds; {found['device']['device']}, "
        f"{found['device']['precision']}, torch {found['torch']}"
        + (f", {memory:.1f} GB of its memory at most." if memory else "."),
        f"Of its checkpoints the best by held-out text is that of step {training['best_step']:,}; it is measured here.",
        "",
        "Commands, each with `--text TEXT --tokenizer TOK --out OUT`: `python runs/one_gpu.py curve --seeds "
        f"{learned['seeds']} --until {learned['until']}`, which learns the vocabulary too where there is none, "
        f"`python runs/one_gpu.py train --seed {found['seed']}`, and `python runs/one_gpu.py report --out OUT`, which "
        f"writes this section and [{page.stem}/one-gpu.json]({page.stem}/one-gpu.json).",
        "",
        "| bits per byte | |",
        "|---|---|",
        f"| held out of the texts, best (step {training['best_step']:,}) | {best_bits:.4f} |",
        *(f"| {name} | {score['bits_per_byte']:.4f} |" for name, score in found["scores"].items()),
        "",
        *course(training["held_out"]),
        *continuations(found["samples"]),
        f"`positronic doctor` compares such a run with `{learned['name']}`: {learned['seeds']} seeds, their first "
        f"{learned['steps']:,} steps ({learned['note']}). There the loss is {learned['loss']:.3f} ± "
        f"{learned['edge']:.3f}.",
        *([beside] if learned["left_out"] else []),
    ]
    return "\n".join(lines) + "\n"


def _started(a: argparse.Namespace, seed: int) -> subprocess.Popen[bytes]:
    """`train` of a seed, with the words of this call."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in vars(a).items() if name in _OF_A_SEED]
    words += ["--seed", str(seed), "--device", *a.device]
    with (a.out / f"seed-{seed}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, __file__, "train", *words], stdout=log, stderr=log)


_OF_A_SEED = ("text", "tokenizer", "out", "model", "batch_tokens", "steps", "until", "stop_after")


def _step(run: Path) -> int:
    """Where a seed stands; 0 where nothing does."""
    return max(RunFolder(run).steps(), default=0)


def _name(a: argparse.Namespace) -> str:
    return f"{Path(a.model).stem}-{BLEND}"


def _curve(a: argparse.Namespace) -> Path:
    return a.out / f"{_name(a)}.json"


def _command(a: argparse.Namespace) -> str:
    """As it is typed; the folders by their names."""
    words = f"python runs/one_gpu.py train --seed {a.seed} --text {a.text.name} --tokenizer {a.tokenizer.name}"
    usual = {"model": "tinygpt-15m", "batch_tokens": BATCH_TOKENS, "steps": STEPS}
    changed = {name: value for name, value in vars(a).items() if usual.get(name, value) != value}
    return words + "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())


if __name__ == "__main__":
    main()
