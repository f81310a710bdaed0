"""The control's reference run: tinygpt-15m on blend-v1, then on conversations, measured on every valid text.

    python runs/control.py --text TEXT --chats CHATS --tokenizer TOK --out OUT [--passes 3] [--device cuda]
    python runs/control.py --report OUT/control.json

TEXT holds the files of blend-v1, CHATS the conversation files that `experiment.CHATS` names; TOK is what `positronic
tokenizer train` makes of the four training texts. Two optimizers are tried on the same rows; the better one is tuned on
conversations. Writes OUT/control.json and both models in bfloat16. Needs the package alone, no command line.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from experiment import (
    BLEND,
    circumstances,
    keep,
    opened,
    pretraining,
    samples,
    scores,
    train,
    tune,
    tuned_scores,
    write_json,
)

from positronic.data import open_source
from positronic.eval import baselines
from positronic.models import preset
from positronic.observe import describe
from positronic.recipes import blend
from positronic.text import Tokenizer
from positronic.train import AdamWConfig, MuonConfig
from positronic.viz import draw_curve

MODEL = "tinygpt-15m"
BATCH_TOKENS = 32_768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--text", "--chats", "--tokenizer", "--out", "--report"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--passes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    if a.report:
        report(json.loads(a.report.read_text("utf-8")), a.report.parent)
        return
    torch.set_float32_matmul_precision("high")
    a.out.mkdir(parents=True, exist_ok=True)
    tokenizer, mixture = Tokenizer.load(a.tokenizer), blend(BLEND)
    runs: dict[str, Any] = {}
    for name, optimizer in {"adamw": AdamWConfig(lr=2e-3), "muon": MuonConfig(lr=2e-3)}.items():
        tokens = a.passes * mixture.pass_tokens
        run = pretraining(preset(MODEL), a.text, optimizer, tokens=tokens, batch_tokens=BATCH_TOKENS, seed=a.seed)
        shutil.rmtree(a.out / name, ignore_errors=True)
        runs[name] = train(run, a.out / name, tokenizer, a.device)
        model = opened(a.out / name / "best", a.device)
        runs[name] |= {"scores": scores(model, tokenizer, a.text, a.device), "samples": samples(model, tokenizer)}
        shutil.copyfile(a.out / name / "metrics.jsonl", a.out / f"{name}.metrics.jsonl")
    better = min(runs, key=lambda name: runs[name]["scores"]["blend"]["bits_per_byte"])
    best, chat = a.out / better / "best", a.out / "chat"
    shutil.rmtree(chat, ignore_errors=True)
    how = {"batch_tokens": BATCH_TOKENS, "seed": a.seed, "epochs": 7}
    tuned = tune(preset(MODEL), best, chat, tokenizer, a.text, a.chats, a.device, **how)
    tuned |= tuned_scores(best, chat / "best", tokenizer, a.text, a.chats, a.device)
    keep(best, a.out / "base-bf16")
    keep(chat / "best", a.out / "tuned-bf16")
    unseen = [d.text for path in mixture.valid_paths(a.text) for d in open_source(path)]
    simple = baselines(tokenizer, unseen, (d.text for p in mixture.data(a.text) for d in open_source(p)))
    result = {
        **circumstances(f"python runs/control.py --passes {a.passes:g} --seed {a.seed}", a.device, tokenizer),
        "model": MODEL,
        "parameters": describe(preset(MODEL)).total,
        "steps": runs[better]["steps"],
        "batch_tokens": BATCH_TOKENS,
        "baselines_on_blend_valid": simple.to_json(),
        "pretraining": runs,
        "better": better,
        "tuning": tuned,
    }
    write_json(a.out / "control.json", result)
    print(json.dumps({name: run["scores"] for name, run in runs.items()}, indent=1))


def beside_plain() -> str:
    """What `python -m benchmarks.train_step --device cuda` found, where it was run."""
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "train_step_cuda.json"
    if not path.exists():
        return "not measured (`python -m benchmarks.train_step --device cuda`)."
    ratios = json.loads(path.read_text("utf-8"))["ratio"]
    found = (f"{form} {ratio:.2f} of a {peer}'s rate" for peer, of in ratios.items() for form, ratio in of.items())
    return "; ".join(found) + f" (`{path.name}`)."


def report(result: dict[str, Any], out: Path) -> None:
    """OUT/control.md: what came out, in words and tables."""
    runs, better, tuned = result["pretraining"], result["better"], result["tuning"]
    texts = list(runs[better]["scores"])
    names = list(runs)
    lines = [
        "# The control: tinygpt-15m on blend-v1",
        "",
        f"{result['parameters']:,} parameters, {result['tokenizer']['kind']} vocabulary of "
        f"{result['tokenizer']['vocab_size']:,}, {result['steps']:,} steps of {result['batch_tokens']:,} tokens "
        f"({runs[better]['tokens'] / 1e6:.0f} M tokens, {runs[better]['tokens'] / 20e6:.1f} passes of 20 M), one seed.",
        f"Device: {result['device']['device']}, {result['device']['precision']}, torch {result['torch']}.",
        f"Command: `{result['command']} --text TEXT --chats CHATS --tokenizer TOK --out OUT`; this page and the curve: "
        "`python runs/control.py --report OUT/control.json`.",
        "",
        "## Bits per byte, whole valid texts (context 1,024, stride 512; lower is better)",
        "",
        "| text | " + " | ".join(names) + " | after tuning on conversations |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for text in texts:
        row = [f"{runs[name]['scores'][text]['bits_per_byte']:.4f}" for name in names]
        after = tuned["texts_after"].get(text)
        row.append(f"{after['bits_per_byte']:.4f}" if after else "")
        lines.append(f"| {text} | " + " | ".join(row) + " |")
    simple = result["baselines_on_blend_valid"]
    lines += [
        "",
        "`blend` is the mean of the four valid texts, weighed by the blend's shares. All four under gzip -9: "
        f"{simple['gzip']:.3f}, xz -9e: {simple['xz']:.3f}, unigram over the same tokens: {simple['unigram']:.3f}.",
        "The last four texts were never near the training data; WikiText is measured as it stands, `<unk>` and all.",
        "",
        "## Speed",
        "",
        "| optimizer | tokens/s (median step) | TFLOP/s | share of 989 TFLOP/s | peak memory | wall time in all |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        run, rate = runs[name], runs[name]["speed"]
        speeds = f"{rate['tokens_per_s']:,.0f} | {rate['tflops']:.0f}"
        mfu = f"{rate['mfu']:.1%}" if rate["mfu"] else "-"
        memory = f"{run['peak_memory_gb']:.1f} GB" if run["peak_memory_gb"] else "-"
        lines.append(f"| {name} | {speeds} | {mfu} | {memory} | {run['wall_s']:.0f} s |")
    before, after = tuned["assistant_before"], tuned["assistant_after"]
    lines += [
        "",
        "TFLOP/s count matrix products of a forward pass at full context, times three. Steps include logging, the",
        "first wall time tokenising. The bare step: " + beside_plain(),
        "",
        "![bits per byte over tokens](control.png)",
        "",
        "## How it goes on (temperature 0.7, top-p 0.92, seed 1)",
        "",
        *(f"> **{p.strip()}**{t.replace(chr(10), ' / ')}\n" for p, t in runs[better]["samples"].items()),
        "## Tuned on conversations",
        "",
        f"{tuned['steps']:,} steps, {tuned['tokens'] / 1e6:.1f} M tokens, 2 % of them of the blend. On "
        f"{tuned['held_out_conversations']:,} conversations it has not seen, the assistant's words cost "
        f"{before['bits_per_byte']:.3f} bits per byte before and {after['bits_per_byte']:.3f} after.",
        "",
        "On a CPU: `positronic chat OUT/tuned-bf16`. Three answers (temperature 0.7, seed 1):",
        "",
        *(f"> **{q}** {t.replace(chr(10), ' / ')}\n" for q, t in tuned["answers"].items()),
    ]
    (out / "control.md").write_text("\n".join(lines) + "\n", "utf-8")
    metrics = out / f"{better}.metrics.jsonl"
    if metrics.exists():
        draw_curve(metrics, out / "control.png", f"tinygpt-15m on blend-v1, {better}")


if __name__ == "__main__":
    main()
