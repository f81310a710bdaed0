"""A family's reference runs on blend-v1, beside controls of equal size, order and schedule.

    python runs/reference_runs.py train NAME --seed 0 --tokens 40e6 --text TEXT --tokenizer TOK --out OUT
    python runs/reference_runs.py inspect NAME --seed 0 --text TEXT --tokenizer TOK --out OUT
    python runs/reference_runs.py drafts NAME --seed 0 --tokenizer TOK --out OUT [--device cpu]
    python runs/reference_runs.py tune NAME --seed 0 --chats CHATS --text TEXT --tokenizer TOK --out OUT
    python runs/reference_runs.py answer NAME --seed 0 --chats CHATS --text TEXT --tokenizer TOK --out OUT
    python runs/reference_runs.py report positronic|mycel|metric|chimera --out OUT

NAME is a preset (positronic-144m, mycel-79m, control-79m, ...) or one of MODELS here. `train` goes on where it stopped,
after --stop-after seconds say, and when the run has ended scores every valid text (OUT/NAME-seed0.json, and its
metrics). `inspect` adds gate openings, what health reads layer by layer, each organ switched off and samples
(OUT/NAME-inside.json), for a trunk that is passed as often as asked each mixer of each layer switched off and the score
at each depth, and keeps the model in bfloat16; `drafts` lets it draft for itself on one device
(OUT/NAME-drafts-DEVICE.json), from the run or from what was kept; `tune` trains it on conversations and keeps that
(OUT/NAME-tuning.json), `answer` says what has changed (OUT/NAME-chat.json); `report` reads them all and writes
OUT/FAMILY.md. Needs the package alone, no command line.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from experiment import (
    BLEND,
    PROMPTS,
    StopsAfter,
    by_position,
    circumstances,
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
from report import write_report

from positronic import generate
from positronic.config import ModelConfig
from positronic.data import excerpt, open_source
from positronic.eval import Score, compare
from positronic.lm import LM
from positronic.mixers.metric_scores import CosineConfig, DotConfig, L2Config
from positronic.models import PRESETS, preset
from positronic.models.metric import moa_20m, moa_tiny, scored_by
from positronic.observe import ablate, describe, health, mixers_of, organs_of, sample_rows
from positronic.probe import Probe
from positronic.recipes import blend
from positronic.state import Loops
from positronic.text import Tokenizer
from positronic.train import MuonConfig, pick_device

SCORES = {"dot": DotConfig(), "cosine": CosineConfig(), "l2": L2Config()}


def looped(**changes: Any) -> ModelConfig:
    """chimera-35m, whose loop is passed otherwise."""
    config = PRESETS["chimera-35m"]()
    return config.replace(looping=config.looping.replace(**changes))


def forgetful() -> ModelConfig:
    """The same at depth 2, whose Titans have a window and slots alone."""
    config = looped(mean=0)
    return config.replace(titans=config.titans.replace(memory=None))


MODELS: dict[str, Callable[[], ModelConfig]] = {
    f"{name}-{score}": partial(scored_by, made(), config)
    for name, made in (("moa-20m", moa_20m), ("moa-tiny", moa_tiny))
    for score, config in SCORES.items()
} | {
    "chimera-35m-depth-1": partial(looped, usual=1, mean=0),
    "chimera-35m-depth-2": partial(looped, mean=0),
    "chimera-35m-per-iteration": partial(looped, memory="per_iteration"),
    "chimera-35m-no-memory": forgetful,
    "control-35m-short": partial(preset, "control-35m"),
}
"""Models that are no preset: the metric ones by their scores, beside those of maha_diag; Chimera at fixed depths, and
the control of these."""
LARGE = ("positronic-144m", "control-144m", "mycel-79m", "mycel-79m-mixer-only", "control-79m", "control-38m")
LARGE += ("moa-metric-150m", "moa-dot-150m")
"""Half the rate and about twice the tokens an update."""
TINY = ("moa-tiny", *(f"moa-tiny-{score}" for score in SCORES), "chimera-tiny", "control-chimera-tiny")
"""For a CPU."""
HEALTH_BYTES = 5_000
"""Of each valid text, for the readings of organs."""
DEPTHS = (1, 2, 4, 6)
LAYER_BYTES = 50_000
"""Of each valid text, for a score with one mixer off."""
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
    parser.add_argument("--score-bytes", type=int, help="of each valid text, for a run's scores; all when not given")
    parser.add_argument("--epochs", type=float, default=2, help="of tuning")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--note", default="", help="what the speeds should be read with, say that runs shared a device")
    a = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    a.out.mkdir(parents=True, exist_ok=True)
    jobs = {
        "train": pretrain,
        "inspect": inspect,
        "drafts": draft,
        "tune": converse,
        "answer": answer,
        "report": report,
    }
    jobs[a.what](a)


def config_of(name: str) -> ModelConfig:
    """A preset, or one of MODELS."""
    return MODELS[name]() if name in MODELS else preset(name)


def batch_tokens(name: str) -> int:
    """Tokens an update, whole rows of the model's context."""
    context = config_of(name).context
    return (65_536 if name in LARGE else 4_096 if name in TINY else 32_768) // context * context


def pretrain(a: argparse.Namespace) -> None:
    """One preset and seed: trained, or trained on, and measured at its end."""
    tokenizer, out = Tokenizer.load(a.tokenizer), a.out / f"{a.name}-seed{a.seed}"
    run = pretraining(
        config_of(a.name),
        a.text,
        MuonConfig(lr=1e-3 if a.name in LARGE else 2e-3),
        tokens=a.tokens,
        batch_tokens=batch_tokens(a.name),
        seed=a.seed,
    )
    result = train(run, out, tokenizer, a.device, [StopsAfter(a.stop_after)])
    shutil.copyfile(out / "metrics.jsonl", a.out / f"{out.name}.metrics.jsonl")
    if not result["finished"]:
        print(f"{out.name}: {result['tokens']:,} tokens so far; the same command goes on")
        return
    model = opened(out / "best", a.device)
    excerpt = f" --score-bytes {a.score_bytes}" if a.score_bytes else ""
    result = {
        **circumstances(_command(a) + f" --tokens {a.tokens:g}{excerpt}", a.device, tokenizer),
        "model": a.name,
        "seed": a.seed,
        "note": a.note,
        "parameters": describe(config_of(a.name)).total,
        "training": result,
        "excerpt": a.score_bytes,
        "scores": scores(model, tokenizer, a.text, a.device, max_bytes=a.score_bytes),
        "by_position": by_position(model, tokenizer, a.text, a.device),
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
        "health": readings(model, tokenizer, a),
        "samples": samples(model, tokenizer),
        "ablation": ablation(model, tokenizer, a, silenced(model), a.excerpt_bytes),
    }
    if model.config.loop_depths:
        found["layers"] = ablation(model, tokenizer, a, silenced_layers(model), LAYER_BYTES)
        found["depths"] = depths(model, tokenizer, a)
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
    return f"python runs/reference_runs.py {a.what} {a.name} --seed {a.seed}"


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


def readings(model: LM, tokenizer: Tokenizer, a: argparse.Namespace) -> list[dict[str, Any]]:
    """What health reads of every organ, layer by layer, on the beginnings of the blend's valid texts."""
    texts = [d.text for path in blend(BLEND).valid for d in excerpt(open_source(a.text / path), HEALTH_BYTES)]
    rows = sample_rows(tokenizer.encode_batch(texts), tokenizer.eot_id, model.config.context)
    found = health(model, rows.to(pick_device(a.device).torch_device))
    return [line.to_json() for line in found.lines]


def silenced(model: LM) -> dict[str, Probe]:
    """By organ, what silences it."""
    return {organ: ablate(model, [organ]) for organ in organs_of(model)}


def silenced_layers(model: LM) -> dict[str, Probe]:
    """By mixer and number of its kind, what silences it alone, in the order of the trunk."""
    return {f"{place.organ} {place.layer or 1}": probe for place, probe in mixers_of(model).items()}


def ablation(
    model: LM, tokenizer: Tokenizer, a: argparse.Namespace, probes: dict[str, Probe], excerpt_bytes: int
) -> dict[str, Any]:
    """Each part off, on excerpts of the blend's valid texts: what it changes in the logits and in bits per byte."""
    rows = {organ: {"max_change": 0.0, "flips": 0, "bits_per_byte": 0.0} for organ in probes}
    whole, tokens = 0.0, 0
    for path, share in zip(blend(BLEND).valid, shares(), strict=True):
        with pick_device(a.device).autocast():
            documents = excerpt(open_source(a.text / path), excerpt_bytes)
            scored, versions = compare(model, tokenizer, documents, probes)
        whole += share * Score.total(scored).bits_per_byte
        tokens += Score.total(scored).tokens
        for organ, version in versions.items():
            row = rows[organ]
            row["max_change"] = max(row["max_change"], version.largest_change)
            row["flips"] += version.flips
            row["bits_per_byte"] += share * Score.total(version.scores).bits_per_byte
    return {"tokens": tokens, "excerpt_bytes": excerpt_bytes, "bits_per_byte": whole, "organs": rows}


def depths(model: LM, tokenizer: Tokenizer, a: argparse.Namespace) -> dict[str, Any]:
    """Bits per byte of the blend's valid texts by the number of times the loop is passed."""
    asked: list[Loops] = [depth for depth in DEPTHS if depth in model.config.loop_depths]
    if len(model.config.loop_depths) > 1:
        asked.append("auto")
    read = partial(scores, model, tokenizer, a.text, a.device, others=False, max_bytes=a.excerpt_bytes)
    return {str(depth): read(loops=depth)["blend"]["bits_per_byte"] for depth in asked}


def drafts(model: Any, tokenizer: Tokenizer) -> dict[str, Any]:
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
        "device": str(next(model.parameters()).device),
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
def acceptance(model: Any, tokenizer: Tokenizer) -> list[float]:
    """Share of places in greedy text at which each head says what the main head says that many tokens later."""
    place = next(model.parameters()).device
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
    how = {"batch_tokens": batch_tokens(a.name), "seed": a.seed, "epochs": a.epochs}
    found = tune(config_of(a.name), _best_folder(a), chat, tokenizer, a.text, a.chats, a.device, **how)
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


def report(a: argparse.Namespace) -> None:
    """OUT/FAMILY.md: what came out, in words and tables."""
    write_report(a.name, a.out)


if __name__ == "__main__":
    main()
