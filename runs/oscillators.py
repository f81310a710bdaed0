"""The oscillator family's reference runs on blend-v1, beside SwiGLU controls of equal size, order and schedule.

    python runs/oscillators.py train NAME --seed 0 --tokens 40e6 --text TEXT --tokenizer TOK --out OUT [--stop-after S]
    python runs/oscillators.py inspect NAME --seed 0 --text TEXT --tokenizer TOK --out OUT
    python runs/oscillators.py drafts NAME --seed 0 --tokenizer TOK --out OUT [--device cpu]
    python runs/oscillators.py tune NAME --seed 0 --chats CHATS --text TEXT --tokenizer TOK --out OUT
    python runs/oscillators.py answer NAME --seed 0 --chats CHATS --text TEXT --tokenizer TOK --out OUT
    python runs/oscillators.py report --out OUT

NAME is a preset: positronic-144m, control-144m, positronic-15m, tinygpt-15m. `train` goes on where it stopped, and when
the run has ended scores every valid text (OUT/NAME-seed0.json, and its metrics). `inspect` adds gate openings, each
organ switched off and samples (OUT/NAME-inside.json) and keeps the model in bfloat16; `drafts` lets it draft for itself
on one device (OUT/NAME-drafts-DEVICE.json), from the run or from what was kept; `tune` trains it on conversations and
keeps that (OUT/NAME-tuning.json), `answer` says what has changed (OUT/NAME-chat.json); `report` reads them all and
writes OUT/positronic.md. Needs the package alone, no command line.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from experiment import (
    BLEND,
    PROMPTS,
    StopsAfter,
    circumstances,
    documents,
    keep,
    opened,
    pretraining,
    samples,
    scores,
    shares,
    train,
    tune,
    tuned_scores,
    write_json,
)
from torch import nn

from positronic import generate
from positronic.eval import Score, compare
from positronic.lm import LM
from positronic.models import preset
from positronic.observe import ablate, describe, organs_of
from positronic.recipes import blend
from positronic.text import Tokenizer
from positronic.train import MuonConfig, pick_device
from positronic.viz import draw_curves

BATCH_TOKENS = {"positronic-144m": 64_768, "control-144m": 64_768}
"""Tokens an update, whole rows of the preset's context; 32,768 where not listed."""
LR = {"positronic-144m": 1e-3, "control-144m": 1e-3}
"""Peak rate of Muon and of AdamW beside it; 2e-3 where not listed."""
DRAFTED_TOKENS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "inspect", "drafts", "tune", "answer", "report"))
    parser.add_argument("name", nargs="?")
    for name in ("--text", "--chats", "--tokenizer", "--out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--tokens", type=float, default=40e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=float, default=float("inf"))
    parser.add_argument(
        "--excerpt-bytes", type=int, default=200_000, help="of each valid text, for a score with an organ off"
    )
    parser.add_argument("--epochs", type=float, default=2, help="of tuning")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--note", default="", help="what the speeds should be read with, say that runs shared a device")
    a = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    a.out.mkdir(parents=True, exist_ok=True)
    {"train": pretrain, "inspect": inspect, "drafts": draft, "tune": converse, "answer": answer, "report": report}[
        a.what
    ](a)


def pretrain(a: argparse.Namespace) -> None:
    """One preset and seed: trained, or trained on, and measured at its end."""
    tokenizer, out = Tokenizer.load(a.tokenizer), a.out / f"{a.name}-seed{a.seed}"
    run = pretraining(
        preset(a.name),
        a.text,
        MuonConfig(lr=LR.get(a.name, 2e-3)),
        tokens=a.tokens,
        batch_tokens=BATCH_TOKENS.get(a.name, 32_768),
        seed=a.seed,
    )
    result = train(run, out, tokenizer, a.device, [StopsAfter(a.stop_after)])
    shutil.copyfile(out / "metrics.jsonl", a.out / f"{out.name}.metrics.jsonl")
    if not result["finished"]:
        print(f"{out.name}: {result['tokens']:,} tokens so far; the same command goes on")
        return
    model = opened(out / "best", a.device)
    result = {
        **circumstances(_command(a) + f" --tokens {a.tokens:g}", a.device, tokenizer),
        "model": a.name,
        "seed": a.seed,
        "note": a.note,
        "parameters": describe(preset(a.name)).total,
        "training": result,
        "scores": scores(model, tokenizer, a.text, a.device),
    }
    write_json(a.out / f"{out.name}.json", result)
    print(json.dumps(result["scores"], indent=1))


def inspect(a: argparse.Namespace) -> None:
    """What stands inside a trained model and what each organ is worth; the model itself, in bfloat16."""
    tokenizer, trained = Tokenizer.load(a.tokenizer), a.out / f"{a.name}-seed{a.seed}" / "best"
    if trained.exists():
        keep(trained, a.out / f"{a.name}-bf16")
    model = opened(_best_folder(a), a.device)
    found = {
        **circumstances(f"{_command(a)} --excerpt-bytes {a.excerpt_bytes}", a.device, tokenizer),
        "inside": a.name,
        "gates": gates(model),
        "samples": samples(model, tokenizer),
        "ablation": ablation(model, tokenizer, a),
    }
    write_json(a.out / f"{a.name}-inside.json", found)
    print(json.dumps(found["ablation"], indent=1))


def draft(a: argparse.Namespace) -> None:
    """Drafts on one device."""
    tokenizer, model = Tokenizer.load(a.tokenizer), opened(_best_folder(a), a.device)
    device = pick_device(a.device).torch_device.type
    found = circumstances(f"{_command(a)} --device {device}", a.device, tokenizer) | {"drafting": a.name}
    write_json(a.out / f"{a.name}-drafts-{device}.json", found | {"drafts": drafts(model, tokenizer)})


def _best_folder(a: argparse.Namespace) -> Path:
    """The run's best checkpoint or, where only that is left, what was kept of it in bfloat16."""
    trained = a.out / f"{a.name}-seed{a.seed}" / "best"
    return trained if trained.exists() else a.out / f"{a.name}-bf16"


def _command(a: argparse.Namespace) -> str:
    return f"python runs/oscillators.py {a.what} {a.name} --seed {a.seed}"


def gates(model: Any) -> dict[str, Any]:
    """tanh g of every gate, a number or several, by "block kind place": how far each organ has opened."""
    found = {}
    for block, residual in enumerate(model.trunk):
        for name, p in residual.mixer.named_parameters():
            if name.rpartition(".")[2] == "g":
                gate = torch.tanh(p.detach().float())
                place = f"{block} {residual.mixer.config.kind} {name.removesuffix('.g')}"
                found[place] = gate.flatten().tolist() if gate.dim() else gate.item()
    return found


def ablation(model: LM, tokenizer: Tokenizer, a: argparse.Namespace) -> dict[str, Any]:
    """Each organ off, on excerpts of the blend's valid texts: what it changes in the logits and in bits per byte."""
    probes = {organ: ablate(model, [organ]) for organ in organs_of(model)}
    rows = {organ: {"max_change": 0.0, "flips": 0, "bits_per_byte": 0.0} for organ in probes}
    whole, tokens = 0.0, 0
    for path, share in zip(blend(BLEND).valid, shares(), strict=True):
        with pick_device(a.device).autocast():
            scored, versions = compare(model, tokenizer, documents(a.text / path, a.excerpt_bytes), probes)
        whole += share * Score.total(scored).bits_per_byte
        tokens += Score.total(scored).tokens
        for organ, version in versions.items():
            row = rows[organ]
            row["max_change"] = max(row["max_change"], version.largest_change)
            row["flips"] += version.flips
            row["bits_per_byte"] += share * Score.total(version.scores).bits_per_byte
    return {"tokens": tokens, "excerpt_bytes": a.excerpt_bytes, "bits_per_byte": whole, "organs": rows}


def drafts(model: LM, tokenizer: Tokenizer) -> dict[str, Any]:
    """Greedy text with and without the model's own drafts: rates, drafts kept, whether the text is the same."""
    found: dict[str, list[Any]] = {"plain": [], "drafted": []}
    for prompt in PROMPTS:
        for kind, speculative in (("plain", False), ("drafted", True), ("plain", False), ("drafted", True)):
            start = time.perf_counter()
            pieces = generate(
                model, tokenizer, prompt, temperature=0, max_new_tokens=DRAFTED_TOKENS, speculative=speculative
            )
            result = list(pieces)[-1].result
            found[kind].append((time.perf_counter() - start, result))
    rate = {k: statistics.median(len(r.tokens) / s for s, r in runs) for k, runs in found.items()}
    pairs = list(zip(found["plain"], found["drafted"], strict=True))
    kept = [r for _, r in found["drafted"]]
    return {
        "device": str(next(_module(model).parameters()).device),
        "tokens_per_s": rate,
        "gain": rate["drafted"] / rate["plain"],
        "same_text": sum(p.tokens == d.tokens for (_, p), (_, d) in pairs),
        "texts": len(pairs),
        "proposed": sum(r.draft.proposed for r in kept),
        "accepted": sum(r.draft.accepted for r in kept),
        "forwards": sum(r.forwards for r in kept),
        "tokens": sum(len(r.tokens) for r in kept),
        "accepted_by_head": acceptance(model, tokenizer),
    }


@torch.no_grad()
def acceptance(model: LM, tokenizer: Tokenizer) -> list[float]:
    """Share of places in greedy text at which each head says what the main head says that many tokens later."""
    place = next(_module(model).parameters()).device
    kept: list[list[float]] = []
    for prompt in PROMPTS:
        text = list(generate(model, tokenizer, prompt, temperature=0, max_new_tokens=DRAFTED_TOKENS))[-1].result
        assert text is not None, "generation ends with a result"
        assert model.drafts is not None, "asked only of models with heads"
        ids = torch.tensor([text.state.tokens], device=place)
        hidden = model(ids).hidden[0, text.prompt_tokens - 1 :]
        said, guessed = model.logits(hidden).argmax(-1), model.logits(model.drafts(hidden)).argmax(-1)
        kept.append([(guessed[: -k - 1, k] == said[k + 1 :]).float().mean().item() for k in range(guessed.shape[1])])
    return [statistics.mean(head) for head in zip(*kept, strict=True)]


def converse(a: argparse.Namespace) -> None:
    """The pretrained model tuned on conversations, and kept in bfloat16."""
    tokenizer, chat = Tokenizer.load(a.tokenizer), a.out / f"{a.name}-chat"
    shutil.rmtree(chat, ignore_errors=True)
    how = {"batch_tokens": BATCH_TOKENS.get(a.name, 32_768), "seed": a.seed, "epochs": a.epochs}
    found = tune(preset(a.name), _best_folder(a), chat, tokenizer, a.text, a.chats, a.device, **how)
    keep(chat / "best", a.out / f"{a.name}-chat-bf16")
    found = circumstances(f"{_command(a)} --epochs {a.epochs:g}", a.device, tokenizer) | {"tuning": found}
    write_json(a.out / f"{a.name}-tuning.json", found)


def answer(a: argparse.Namespace) -> None:
    """What tuning has changed, from what was kept of the model before and after."""
    tokenizer, before = Tokenizer.load(a.tokenizer), _best_folder(a)
    after = a.out / f"{a.name}-chat-bf16"
    found = tuned_scores(before, after, tokenizer, a.text, a.chats, a.device, max_bytes=a.excerpt_bytes)
    command = f"{_command(a)} --excerpt-bytes {a.excerpt_bytes}"
    write_json(a.out / f"{a.name}-chat.json", circumstances(command, a.device, tokenizer) | {"answers": found})


def _module(model: Any) -> nn.Module:
    return model


def report(a: argparse.Namespace) -> None:
    """OUT/positronic.md: what came out, in words and tables."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(a.out.glob("*.json"))}
    runs = {name: run for name, run in found.items() if "scores" in run}
    pairs = [("positronic-144m", "control-144m"), ("positronic-15m", "tinygpt-15m")]
    lines = ["# Positronic on blend-v1, beside its controls", "", *_headline(runs, pairs), "", "## Bits per byte", ""]
    for ours, control in pairs:
        lines += _score_table(runs, ours, control)
    lines += [
        "![held-out bits per byte over tokens](positronic.png)",
        "",
        "## Speed and memory",
        "",
        *_speed_table(runs),
        "",
    ]
    for ours, _ in pairs:
        inside = found.get(f"{ours}-inside")
        if inside is not None:
            lines += [*_organs_table(ours, inside), *_gates_table(inside), *_samples(inside)]
        drafted = [run["drafts"] for run in found.values() if run.get("drafting") == ours]
        lines += _drafts_table(ours, drafted) if drafted else []
    for ours, _ in pairs:
        tuned, said = found.get(f"{ours}-tuning"), found.get(f"{ours}-chat")
        if tuned is not None and said is not None:
            lines += _tuning(ours, tuned["tuning"], said["answers"])
    lines += ["## Commands", "", *(f"- `{run['command']}`" for run in found.values() if "command" in run)]
    lines += ["- this page: `python runs/oscillators.py report --out docs/results/positronic`", ""]
    (a.out / "positronic.md").write_text("\n".join(lines), "utf-8")
    draw_curves({name: _curve(run["training"]) for name, run in runs.items()}, a.out / "positronic.png")


def _curve(training: dict[str, Any]) -> list[tuple[float, float]]:
    return [(step * training["batch_tokens"], value) for step, value in training["held_out"]]


def _seeds(runs: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [run for run in runs.values() if run["model"] == name]


def _several(seeds: list[Any]) -> str:
    return "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _mean(values: list[float]) -> str:
    """The mean, and the half width between the largest and the smallest where there are several."""
    spread = f" ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _blend(run: dict[str, Any]) -> float:
    return run["scores"]["blend"]["bits_per_byte"]


def _headline(runs: dict[str, Any], pairs: list[tuple[str, str]]) -> list[str]:
    lines = []
    for ours, control in pairs:
        mine, theirs = [_blend(r) for r in _seeds(runs, ours)], [_blend(r) for r in _seeds(runs, control)]
        if mine and theirs:
            a, b = statistics.mean(mine), statistics.mean(theirs)
            verdict = "better" if a < b else "worse"
            lines.append(
                f"**{ours} ({_several(mine)}) costs {a:.4f} bits per byte on the blend's valid texts, its control "
                f"{control} ({_several(theirs)}) {b:.4f}: {abs(a / b - 1):.1%} {verdict}.**"
            )
    return lines


def _score_table(runs: dict[str, Any], ours: str, control: str) -> list[str]:
    names = [name for name in (ours, control) if _seeds(runs, name)]
    if not names:
        return []
    first = _seeds(runs, names[0])[0]
    training = first["training"]
    lines = [
        f"{names[0]}: {first['parameters']:,} parameters, {training['tokens'] / 1e6:.0f} M tokens, "
        f"{training['steps']:,} steps of {training['batch_tokens']:,}, {training['optimizer']['kind']} at "
        f"{training['optimizer']['lr']:g}; the control has the same rows in the same order and the same schedule.",
        "",
        "| text | " + " | ".join(f"{name} ({_several(_seeds(runs, name))})" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for text in first["scores"]:
        cells = [_mean([run["scores"][text]["bits_per_byte"] for run in _seeds(runs, name)]) for name in names]
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return [*lines, "", "± is half the distance between the best and the worst seed.", ""]


def _speed_table(runs: dict[str, Any]) -> list[str]:
    lines = [
        "| run | tokens/s (median step) | TFLOP/s | share of peak | peak memory | read with |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        training, rate = run["training"], run["training"]["speed"]
        mfu = f"{rate['mfu']:.1%}" if rate["mfu"] else "-"
        memory = f"{training['peak_memory_gb']:.1f} GB" if training["peak_memory_gb"] else "-"
        lines.append(
            f"| {name} | {rate['tokens_per_s']:,.0f} | {rate['tflops']:.0f} | {mfu} | {memory} | {run['note']} |"
        )
    device = next(iter(runs.values()))["device"]
    return [
        *lines,
        "",
        f"{device['device']}, {device['precision']}, torch {device['torch']}; draft heads not counted in FLOPs.",
    ]


def _organs_table(name: str, run: dict[str, Any]) -> list[str]:
    table = run["ablation"]
    lines = [
        f"## {name}: each organ switched off",
        "",
        f"On {table['excerpt_bytes']:,} bytes of each of the blend's valid texts, {table['tokens']:,} tokens; "
        f"{table['bits_per_byte']:.4f} bits per byte with everything on.",
        "",
        "| organ off | max change of a logit | argmax flips | bits per byte |",
        "|---|---|---|---|",
    ]
    for organ, row in sorted(table["organs"].items(), key=lambda item: -item[1]["bits_per_byte"]):
        flips = f"{row['flips'] / table['tokens']:.2%}"
        lines.append(f"| {organ} | {row['max_change']:.3f} | {flips} | {row['bits_per_byte']:.4f} |")
    return [*lines, ""]


def _gates_table(run: dict[str, Any]) -> list[str]:
    """Gates by place (rows) and block of the trunk (columns): of several in one tensor the one furthest open."""
    rows: dict[str, dict[int, float]] = {}
    for name, value in run["gates"].items():
        block, _, place = name.partition(" ")
        furthest = max(value, key=abs) if isinstance(value, list) else value
        rows.setdefault(place, {})[int(block)] = furthest
    blocks = sorted({block for row in rows.values() if len(row) > 1 for block in row})
    lines = ["### Gate openings, tanh g", "", "| gate, by layer | " + " | ".join(f"{n // 2}" for n in blocks) + " |"]
    lines.append("|---|" + "---|" * len(blocks))
    for place, row in rows.items():
        if len(row) > 1:
            lines.append(f"| {place} | " + " | ".join(f"{row[n]:+.3f}" for n in blocks) + " |")
    alone = [f"{place} {value:+.3f}" for place, row in rows.items() if len(row) == 1 for value in row.values()]
    return [
        *lines,
        "",
        f"Of the specialists of a ring the gate furthest open. Once in the model: {', '.join(alone)}.",
        "",
    ]


def _drafts_table(name: str, drafted: list[dict[str, Any]]) -> list[str]:
    lines = [f"### {name}: self-speculation, greedy, one row", ""]
    for drafts in drafted:
        heads = ", ".join(f"{share:.1%}" for share in drafts["accepted_by_head"])
        lines += [
            f"On {drafts['device']}: {drafts['tokens_per_s']['plain']:.1f} tokens/s plain, "
            f"{drafts['tokens_per_s']['drafted']:.1f} with drafts: {drafts['gain']:.2f} times. "
            f"{drafts['accepted']:,} of {drafts['proposed']:,} drafts kept, "
            f"{drafts['tokens'] / drafts['forwards']:.2f} "
            f"tokens a forward; the text was the same in {drafts['same_text']} of {drafts['texts']} (without `exact`, "
            f"near-ties may flip). Right by head, counted alone: {heads}.",
            "",
        ]
    return lines


def _samples(run: dict[str, Any]) -> list[str]:
    said = [f"> **{p.strip()}**{t.replace(chr(10), ' / ')}\n" for p, t in run["samples"].items()]
    return ["### How it goes on (temperature 0.7, top-p 0.92, seed 1)", "", *said]


def _tuning(name: str, tuned: dict[str, Any], said: dict[str, Any]) -> list[str]:
    before, after = said["assistant_before"]["bits_per_byte"], said["assistant_after"]["bits_per_byte"]
    return [
        f"## {name}: tuned on conversations",
        "",
        f"{tuned['steps']:,} steps, {tuned['tokens'] / 1e6:.1f} M tokens, {tuned['epochs']:g} epochs. On "
        f"{said['held_out_conversations']:,} conversations it has not seen, the assistant's words cost {before:.3f} "
        f"bits per byte before and {after:.3f} after; an excerpt of the blend's valid texts costs "
        f"{said['texts_after']['blend']['bits_per_byte']:.3f} after.",
        "",
        *(f"> **{q}** {t.replace(chr(10), ' / ')}\n" for q, t in said["answers"].items()),
    ]


if __name__ == "__main__":
    main()
