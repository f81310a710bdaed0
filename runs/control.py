"""The control's reference run: tinygpt-15m on blend-v1, then on conversations, measured on every valid text.

    python runs/control.py --text TEXT --chats CHATS --tokenizer TOK --out OUT [--passes 3] [--device cuda]
    python runs/control.py --report OUT/control.json

TEXT holds the files of blend-v1, CHATS the conversation files (names below); TOK is what `positronic tokenizer train`
makes of the four training texts. Two optimizers are tried on the same rows; the better one is tuned on conversations.
Writes OUT/control.json and both models in bfloat16. Needs the package alone, no command line.
"""

import argparse
import json
import platform
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from positronic import __version__, generate
from positronic.checkpoint import load, save
from positronic.data import heldout_conversations, open_source
from positronic.eval import assistant_bits_per_byte, baselines, bits_per_byte
from positronic.models import preset
from positronic.observe import describe
from positronic.recipes import RunConfig, blend, train_run
from positronic.text import Message, Tokenizer
from positronic.train import AdamWConfig, MuonConfig, SFTConfig, TrainConfig, pick_device, progress
from positronic.viz import draw_curve, read_events

MODEL, BLEND = "tinygpt-15m", "blend-v1"
OTHER_TEXTS = ("wikitext2_valid.txt.xz", "wikipedia_30articles.txt.xz", "c4_300docs.jsonl.xz", "tinyshakespeare.txt.xz")
CHATS = (
    "gpteacher_roleplay.json.xz",
    "gpteacher_toolformer.json.xz",
    "glaive_toolcall_en_demo.json.xz",
    "identity.json.xz",
    "instruction_1100.json.xz",
    "selfinstruct_seed_tasks.jsonl.xz",
    "sgd_train_sample.jsonl.xz",
    "topical_chat_valid_freq.json.xz",
    "topical_chat_valid_rare.json.xz",
    "topical_chat_test_freq.json.xz",
    "v1_sft_demo.jsonl.xz",
    "gsm8k_train.jsonl.xz",
)
BATCH_TOKENS = 32_768
PROMPTS = ("It was a dark and stormy", "The mitochondria", "Abstract\n========\n", "Once upon a time, a little")
QUESTIONS = ("Hello! Who are you?", "What is your favourite animal, and why?", "Write a short poem about the sea.")
PEAK = {"NVIDIA H200": 989e12}


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
    tokenizer = Tokenizer.load(a.tokenizer)
    mixture = blend(BLEND)
    steps = round(a.passes * mixture.pass_tokens / BATCH_TOKENS)
    runs = {}
    for name, optimizer in {"adamw": AdamWConfig(lr=2e-3), "muon": MuonConfig(lr=2e-3)}.items():
        run = RunConfig(
            model=preset(MODEL),
            data=mixture.data(a.text),
            valid=mixture.valid_paths(a.text),
            model_seed=a.seed,
            data_seed=a.seed,
            valid_bytes=400_000,
            train=TrainConfig(
                steps=steps,
                batch_tokens=BATCH_TOKENS,
                optimizer=optimizer,
                seed=a.seed,
                evaluate_every=max(1, steps // 12),
                checkpoint_every=0,
            ),
        )
        runs[name] = pretrain(run, tokenizer, a, name)
        shutil.copyfile(a.out / name / "metrics.jsonl", a.out / f"{name}.metrics.jsonl")
        (a.out / "pretraining.json").write_text(json.dumps(runs, indent=2) + "\n", "utf-8")
    best = min(runs, key=lambda name: runs[name]["scores"]["blend"]["bits_per_byte"])
    tuned = tune(a.out / best / "best", tokenizer, a)
    for name, folder in {"base": a.out / best / "best", "tuned": a.out / "chat" / "best"}.items():
        model, _ = load(folder)
        save(a.out / f"{name}-bf16", model, tokenizer, dtype=torch.bfloat16, shard_bytes=12 << 20)
    first = mixture.valid_paths(a.text)
    unseen = [d.text for path in first for d in open_source(path)]
    simple = baselines(tokenizer, unseen, (d.text for p in mixture.data(a.text) for d in open_source(p)))
    result = {
        "command": f"python runs/control.py --passes {a.passes:g} --seed {a.seed}",
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": pick_device(a.device).describe(),
        "model": MODEL,
        "parameters": describe(preset(MODEL)).total,
        "steps": steps,
        "batch_tokens": BATCH_TOKENS,
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.sha256},
        "baselines_on_blend_valid": simple.to_json(),
        "pretraining": runs,
        "better": best,
        "tuning": tuned,
    }
    (a.out / "control.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps({name: run["scores"] for name, run in runs.items()}, indent=1))


def pretrain(run: RunConfig, tokenizer: Tokenizer, a: argparse.Namespace, name: str) -> dict[str, Any]:
    """One run over the blend and its scores on every valid text."""
    out = a.out / name
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    state = train_run(run, out, tokenizer=tokenizer, device=a.device, observers=[progress()], cache=a.out / "cache")
    wall = time.monotonic() - began
    place = pick_device(a.device)
    model, _ = load(out / "best", device=place.torch_device)
    texts = {**{path: Path(path) for path in blend(BLEND).valid}, **{path: Path(path) for path in OTHER_TEXTS}}
    scores = {}
    with place.autocast():
        found = {p: bits_per_byte(model, tokenizer, open_source(a.text / path)) for p, path in texts.items()}
        scores = {p: score.to_json() for p, score in found.items()}
    mixed = [found[path].bits_per_byte * share for path, share in zip(blend(BLEND).valid, shares(), strict=True)]
    scores["blend"] = {"bits_per_byte": sum(mixed)}
    samples = {p: list(generate(model, tokenizer, p, max_new_tokens=80, seed=1))[-1].result.text for p in PROMPTS}
    return {
        "optimizer": run.train.optimizer.to_json(),
        "tokens": state.counters.tokens,
        "best_step": state.counters.best_step,
        "wall_s": round(wall, 1),
        "scores": scores,
        "speed": speed(out / "metrics.jsonl", run),
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None,
        "held_out": [
            (e["step"], e["bits_per_byte"]) for e in read_events(out / "metrics.jsonl") if e["event"] == "evaluation"
        ],
        "samples": samples,
    }


def shares() -> list[float]:
    """The blend's shares, in the order of its valid texts."""
    return list(blend(BLEND).shares.values())


def speed(metrics: Path, run: RunConfig) -> dict[str, float | None]:
    """Median tokens a second of the steps after compilation, and the share of the device's peak that is."""
    rates = [e["tokens_per_s"] for e in read_events(metrics) if e["event"] == "step"]
    median = statistics.median(rates[len(rates) // 10 :])
    flops = 3 * describe(run.model).flops_per_token
    peak = PEAK.get(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {"tokens_per_s": median, "tflops": median * flops / 1e12, "mfu": peak and median * flops / peak}


def tune(base: Path, tokenizer: Tokenizer, a: argparse.Namespace) -> dict[str, Any]:
    """Conversations on top of a pretrained checkpoint, with a little of the blend replayed."""
    out = a.out / "chat"
    shutil.rmtree(out, ignore_errors=True)
    data = tuple(str(a.chats / name) for name in CHATS)
    train = TrainConfig(
        objective=SFTConfig(),
        optimizer=AdamWConfig(lr=5e-4),
        batch_tokens=BATCH_TOKENS,
        evaluate_every=100,
        seed=a.seed,
    )
    run = RunConfig(
        model=preset(MODEL),
        data=data,
        conversations=True,
        replay=blend(BLEND).data(a.text),
        epochs=2,
        train=replace(train, checkpoint_every=0),
        init=str(base),
        data_seed=a.seed,
    )
    state = train_run(run, out, tokenizer=tokenizer, device=a.device, observers=[progress()], cache=a.out / "cache")
    place = pick_device(a.device)
    model, _ = load(out / "best", device=place.torch_device)
    unseen = heldout_conversations(data)
    with place.autocast():
        before = assistant_bits_per_byte(load(base, device=place.torch_device)[0], tokenizer, unseen)
        after = assistant_bits_per_byte(model, tokenizer, unseen)
        texts = {p: bits_per_byte(model, tokenizer, open_source(a.text / p)).to_json() for p in blend(BLEND).valid}
    answers = {}
    for question in QUESTIONS:
        pieces = list(generate(model, tokenizer, [Message("user", question)], max_new_tokens=96, seed=1))
        answers[question] = pieces[-1].result.text
    return {
        "steps": state.counters.step,
        "tokens": state.counters.tokens,
        "held_out_conversations": len(unseen),
        "assistant_before": before.to_json(),
        "assistant_after": after.to_json(),
        "texts_after": texts,
        "answers": answers,
    }


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
        f"{tuned['steps']:,} steps, {tuned['tokens'] / 1e6:.1f} M tokens, two epochs, 2 % of the blend replayed. On "
        f"{tuned['held_out_conversations']:,} conversations it has not seen, the assistant's words cost "
        f"{before['bits_per_byte']:.3f} bits per byte before and {after['bits_per_byte']:.3f} after.",
        "",
        "On a CPU: `positronic chat OUT/tuned-bf16`. Three answers (temperature 0.7, seed 1):",
        "",
        *(f"> **{q}** {t.replace(chr(10), ' / ')}\n" for q, t in tuned["answers"].items()),
    ]
    (out / "control.md").write_text("\n".join(lines) + "\n", "utf-8")
    for name in names:
        metrics = out / f"{name}.metrics.jsonl"
        if metrics.exists() and name == better:
            draw_curve(metrics, out / "control.png", f"tinygpt-15m on blend-v1, {name}")


if __name__ == "__main__":
    main()
