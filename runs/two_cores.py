"""The small pipeline end to end on a CPU: text -> chunks of training -> instructions -> answers, timed and measured.

    python runs/two_cores.py --text STORIES --valid UNSEEN --chats INSTRUCTIONS --out OUT [--minutes 20 | --steps N]
        [--page docs/results/positron.md]

Runs the very scripts (`train_incremental.sh`, which also bootstraps, `sft_quickstart.sh`, `ask_model.sh`), answering
their questions with yes, so that the recipe is theirs; of --minutes, four fifths go to training. Writes
OUT/two-cores.json; with --page also its section there, in the place of what stood, and the JSON into the folder beside
the page. Interrupted, it goes on, and its times are then those of the last call.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiment import circumstances, opened, say, speed, write_json
from pages import continuations, course, one_line, put_section

from positronic.data import Split, open_source, tokenise
from positronic.eval import bits_per_byte
from positronic.observe import describe
from positronic.recipes import read_run
from positronic.text import Message, Tokenizer
from positronic.train import read_events

SCRIPTS = Path(__file__).parent
HEADING = "## The small pipeline on two CPU cores"
TRAINING_SHARE, CHUNK = 0.8, 1000
EPOCHS = 3
PROMPTS = ("Once upon a time", "One day, a little girl named Lily", "Tom and his dog")
QUESTIONS = ("What is the sun?", "Who are you?", "Write a sentence about a cat.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--text", "--valid", "--chats", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--page", type=Path)
    a = parser.parse_args()
    began, run = time.monotonic(), a.out / "run"
    a.out.mkdir(parents=True, exist_ok=True)
    seconds = pipeline(a.text, a.chats, run, a.minutes, a.steps)
    result = measured(a.text, a.valid, a.chats, run)
    length = f"--minutes {a.minutes:g}" if a.steps is None else f"--steps {a.steps}"
    names = f"--text {a.text.name} --valid {a.valid.name} --chats {a.chats.name}"
    found = {
        **circumstances(f"python runs/two_cores.py {names} {length}", "cpu", Tokenizer.load(run / "last")),
        "cores": os.cpu_count(),
        "seconds": seconds,
        "wall_s": round(time.monotonic() - began, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        **result,
    }
    write_json(a.out / "two-cores.json", found)
    if a.page is not None:
        put_section(a.page, section(found, a.page))
        a.page.with_suffix("").mkdir(exist_ok=True)
        write_json(a.page.with_suffix("") / "two-cores.json", found)


def pipeline(text: Path, chats: Path, run: Path, minutes: float, steps: int | None) -> dict[str, float]:
    """The scripts, one after another; seconds of each."""
    length = {"MINUTES": f"{TRAINING_SHARE * minutes:g}"} if steps is None else {"STEPS": str(steps)}
    seconds = {}
    for words in (
        ("train_incremental.sh", str(CHUNK)),
        ("sft_quickstart.sh", str(chats)),
        ("ask_model.sh", QUESTIONS[0]),
    ):
        began = time.monotonic()
        given = {"POSITRONIC": str(Path(sys.executable).with_name("positronic")), "DEVICE": "cpu", "RUN": str(run)}
        given |= {"SIZE": "tiny", "DATA": str(text), "EPOCHS": str(EPOCHS), "QUESTION": QUESTIONS[0], **length}
        yes = "\n" * 1000
        subprocess.run([SCRIPTS / words[0], *words[1:]], env=os.environ | given, input=yes, text=True, check=True)
        seconds[words[0]] = round(time.monotonic() - began, 1)
    return seconds


def measured(text: Path, valid: Path, chats: Path, run: Path) -> dict[str, Any]:
    """What was trained, and what it is worth."""
    config, tokenizer = read_run(run), Tokenizer.load(run / "last")
    events = list(read_events(run / "metrics.jsonl"))
    last = [event for event in events if event["event"] == "step"][-1]
    tuning = [e for e in read_events(run / "tuned" / "metrics.jsonl") if e["event"] == "evaluation"]
    one_pass = tokenise(Split(open_source(text)).train, tokenizer).manifest["tokens"]
    best, tuned = opened(run / "best", "cpu"), opened(run / "tuned" / "best", "cpu")
    prompts = {q: [Message("user", q)] for q in QUESTIONS}
    return {
        "model": "tinygpt-tiny",
        "parameters": describe(best.config).total,
        "text": text.name,
        "steps": last["step"],
        "batch_tokens": config.train.batch_tokens,
        "tokens": last["tokens"],
        "epochs": last["tokens"] / one_pass,
        "speed": speed(events, config),
        "held_out": [(e["step"], e["bits_per_byte"]) for e in events if e["event"] == "evaluation"],
        "valid": valid.name,
        "scores": {
            "best": bits_per_byte(best, tokenizer, open_source(valid)).to_json(),
            "tuned": bits_per_byte(tuned, tokenizer, open_source(valid)).to_json(),
        },
        "samples": {prompt: say(best, tokenizer, prompt, 80) for prompt in PROMPTS},
        "tuning": {
            "conversations": chats.name,
            "epochs": EPOCHS,
            "held_out": [(e["step"], e["loss"], e["bits_per_byte"]) for e in tuning],
            "before": {q: say(best, tokenizer, prompt, 60) for q, prompt in prompts.items()},
            "after": {q: say(tuned, tokenizer, prompt, 60) for q, prompt in prompts.items()},
        },
    }


def section(found: dict[str, Any], page: Path) -> str:
    """The result as a section of the page."""
    scores, tuning = found["scores"], found["tuning"]
    dev = tuning["held_out"]
    best_step, best_bits = min(found["held_out"], key=lambda pair: pair[1])
    best_dev = min(loss for _, loss, _ in dev)
    stages = ", ".join(f"`{name}` {seconds:,.0f} s" for name, seconds in found["seconds"].items())
    lines = [
        HEADING,
        "",
        f"`{found['model']}` ({found['parameters']:,} parameters, {found['tokenizer']['kind']} vocabulary of "
        f"{found['tokenizer']['vocab_size']:,}) on {found['text']}: {found['steps']:,} steps of "
        f"{found['batch_tokens']:,} tokens, {found['tokens'] / 1e6:.2f} M tokens, {found['epochs']:.1f} epochs, "
        f"{found['speed']['tokens_per_s']:,.0f} tokens/s in the median step, with {found['device']['threads']} of "
        f"{found['cores']} cores, torch {found['torch']}; {found['peak_memory_bytes'] / 1e9:.1f} GB at most.",
        f"Wall time {found['wall_s'] / 60:.1f} minutes: {stages}, the rest measuring.",
        "",
        f"Command: `{found['command']} --out OUT --page docs/results/{page.name}`, which writes this section and "
        f"[{page.stem}/two-cores.json]({page.stem}/two-cores.json).",
        "",
        "| bits per byte | |",
        "|---|---|",
        f"| held out of the text, best (step {best_step:,}) | {best_bits:.4f} |",
        f"| {found['valid']}, the best checkpoint | {scores['best']['bits_per_byte']:.4f} |",
        f"| {found['valid']}, after tuning | {scores['tuned']['bits_per_byte']:.4f} |",
        "",
        *course(found["held_out"]),
        *continuations(found["samples"]),
        f"Tuned on {tuning['conversations']}, {tuning['epochs']} epochs: a token of an answer it has not seen costs "
        f"{dev[0][1]:.3f} nats before and {best_dev:.3f} at best.",
        "",
        "| question | before | after |",
        "|---|---|---|",
        *(f"| {q} | {one_line(tuning['before'][q])} | {one_line(answer)} |" for q, answer in tuning["after"].items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
