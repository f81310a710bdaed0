"""What the reference runs share: texts, one pretraining run and its scores, tuning on conversations, what is kept."""

import json
import os
import platform
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from positronic import __version__, generate
from positronic.checkpoint import commit, load, save
from positronic.config import ModelConfig
from positronic.data import NAMES, excerpt, heldout_conversations, open_source
from positronic.eval import assistant_bits_per_byte, bits_per_byte
from positronic.lm import LM
from positronic.observe import describe
from positronic.recipes import RunConfig, blend, train_run
from positronic.state import Loops
from positronic.text import Message, Tokenizer
from positronic.train import (
    AdamWConfig,
    Observer,
    OptimizerConfig,
    SFTConfig,
    TrainConfig,
    pick_device,
    progress,
    read_events,
)

BLEND = "blend-v1"
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
PROMPTS = ("It was a dark and stormy", "The mitochondria", "Abstract\n========\n", "Once upon a time, a little")
QUESTIONS = ("Hello! Who are you?", "What is your favourite animal, and why?", "Write a short poem about the sea.")
PEAK = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12}
SHARD_BYTES = 12 << 20
POSITION_BYTES = 300_000
"""Of each valid text, for losses by their places in a row."""


def pretraining(
    model: ModelConfig, text: Path, optimizer: OptimizerConfig, *, tokens: float, batch_tokens: int, seed: int
) -> RunConfig:
    """A run over the blend, `tokens` in all, measured a dozen times on the way."""
    steps = round(tokens / batch_tokens)
    return RunConfig(
        model=model,
        data=blend(BLEND).data(text),
        valid=blend(BLEND).valid_paths(text),
        model_seed=seed,
        data_seed=seed,
        valid_bytes=400_000,
        train=TrainConfig(
            steps=steps,
            batch_tokens=batch_tokens,
            optimizer=optimizer,
            seed=seed,
            evaluate_every=max(1, steps // 12),
            checkpoint_every=0,
            checkpoint_every_s=0,
        ),
    )


class StopsAfter:
    """Asks a run to stop and save itself when its time is over, so that a long run falls into chunks."""

    def __init__(self, seconds: float):
        self.deadline = time.monotonic() + seconds

    def step(self, event: Any) -> None:
        if time.monotonic() > self.deadline:
            os.kill(os.getpid(), signal.SIGINT)
            self.deadline = float("inf")

    def evaluation(self, event: Any) -> None: ...

    def checkpoint(self, event: Any) -> None: ...

    def close(self) -> None: ...


def train(
    run: RunConfig,
    out: Path,
    tokenizer: Tokenizer,
    device: str,
    observers: Sequence[Observer] = (),
    until: int | None = None,
) -> dict[str, Any]:
    """Begin the run, or go on where it stopped, up to step `until`; what became of it. `finished`: it is at its end."""
    began = time.monotonic()
    state = train_run(
        run,
        out,
        tokenizer=None if (out / "last").exists() else tokenizer,
        go_on=(out / "last").exists(),
        device=device,
        observers=[progress(), *observers],
        cache=out.parent / "cache",
        until=until,
    )
    events = list(read_events(out / "metrics.jsonl"))
    return {
        "optimizer": run.train.optimizer.to_json(),
        "batch_tokens": run.train.batch_tokens,
        "steps": run.train.steps,
        "step": state.counters.step,
        "tokens": state.counters.tokens,
        "seconds": state.counters.seconds,
        "best_step": state.counters.best_step,
        "finished": state.stopped == "finished",
        "wall_s": round(time.monotonic() - began, 1),
        "speed": speed(events, run),
        "side_losses": side_losses(events),
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None,
        "held_out": [(e["step"], e["bits_per_byte"]) for e in events if e["event"] == "evaluation"],
    }


def speed(events: Sequence[dict[str, Any]], run: RunConfig) -> dict[str, float | None]:
    """Median tokens a second of the steps after compilation, and the share of the device's peak that is."""
    rates = [e["tokens_per_s"] for e in events if e["event"] == "step"]
    median = statistics.median(rates[len(rates) // 10 :])
    flops = 3 * describe(run.model).flops_per_token
    peak = PEAK.get(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {"tokens_per_s": median, "tflops": median * flops / 1e12, "mfu": peak and median * flops / peak}


def side_losses(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What was trained on beside the text, by name, unweighted: medians of the last tenth of the steps.

    z is lse^2; a loss of an organ or a head has a point in its name.
    """
    steps = [e for e in events if e["event"] == "step"]
    late = steps[-max(1, len(steps) // 10) :]
    names = [name for name in late[-1] if name == "z" or "." in name]
    return {name: statistics.median(e[name] for e in late if name in e) for name in names}


def scores(
    model: LM,
    tokenizer: Tokenizer,
    text: Path,
    device: str,
    *,
    others: bool = True,
    max_bytes: int | None = None,
    loops: Loops = None,
) -> dict[str, Any]:
    """Bits per byte on every valid text, and `blend`: their mean, weighed by the blend's shares."""
    mixture = blend(BLEND)
    with pick_device(device).autocast():
        found = {
            path: bits_per_byte(model, tokenizer, excerpt(open_source(text / path), max_bytes), loops=loops)
            for path in (*mixture.valid, *(OTHER_TEXTS if others else ()))
        }
    mixed = [found[path].bits_per_byte * share for path, share in zip(mixture.valid, shares(), strict=True)]
    return {path: score.to_json() for path, score in found.items()} | {"blend": {"bits_per_byte": sum(mixed)}}


@torch.no_grad()
def by_position(model: LM, tokenizer: Tokenizer, text: Path, device: str) -> list[float]:
    """Nats a token in each eighth of a row, over rows of the model's context from each of the blend's valid texts."""
    here, context, found = pick_device(device), model.config.context, []
    for path in blend(BLEND).valid:
        documents = [document.text for document in excerpt(open_source(text / path), POSITION_BYTES)]
        stream = torch.tensor(
            [token for ids in tokenizer.encode_batch(documents) for token in (tokenizer.begin_id, *ids)]
        )
        rows = stream[: (len(stream) - 1) // context * context].view(-1, context).to(here.torch_device)
        after = stream[1 : rows.numel() + 1].view_as(rows).to(here.torch_device)
        for row, wanted in zip(rows.split(4), after.split(4), strict=True):
            with here.autocast():
                logits = model.logits(model(row).hidden).float()
            found.append(F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none"))
    return torch.cat(found).mean(0).view(8, -1).mean(1).tolist()


def shares() -> list[float]:
    """The blend's shares, in the order of its valid texts."""
    return list(blend(BLEND).shares.values())


def tune(
    model: ModelConfig, base: Path, out: Path, tokenizer: Tokenizer, text: Path, chats: Path, device: str, **how: float
) -> dict[str, Any]:
    """Conversations on top of a pretrained checkpoint, with a little of the blend replayed."""
    data = tuple(str(chats / name) for name in CHATS)
    settings = TrainConfig(
        objective=SFTConfig(),
        optimizer=AdamWConfig(lr=5e-4),
        batch_tokens=int(how["batch_tokens"]),
        evaluate_every=100,
        seed=int(how["seed"]),
    )
    run = RunConfig(
        model=model,
        data=data,
        conversations=True,
        replay=blend(BLEND).data(text),
        fill_names=True,
        epochs=how["epochs"],
        train=replace(settings, checkpoint_every=0),
        init=str(base),
        data_seed=int(how["seed"]),
    )
    cache = out.parent / "cache"
    state = train_run(run, out, tokenizer=tokenizer, device=device, observers=[progress()], cache=cache)
    return {"steps": state.counters.step, "epochs": how["epochs"], "tokens": state.counters.tokens}


def tuned_scores(
    base: Path, out: Path, tokenizer: Tokenizer, text: Path, chats: Path, device: str, *, max_bytes: int | None = None
) -> dict[str, Any]:
    """What tuning has changed: the assistant's words before and after, the blend's valid texts after, answers."""
    tuned = opened(out, device)
    unseen = heldout_conversations([str(chats / name) for name in CHATS], names=NAMES)
    with pick_device(device).autocast():
        before = assistant_bits_per_byte(opened(base, device), tokenizer, unseen)
        after = assistant_bits_per_byte(tuned, tokenizer, unseen)
    return {
        "held_out_conversations": len(unseen),
        "assistant_before": before.to_json(),
        "assistant_after": after.to_json(),
        "texts_after": scores(tuned, tokenizer, text, device, others=False, max_bytes=max_bytes),
        "answers": {q: say(tuned, tokenizer, [Message("user", q)], 96) for q in QUESTIONS},
    }


def opened(folder: Path, device: str) -> LM:
    """The model of a checkpoint, on the device."""
    return load(folder, device=pick_device(device).torch_device)[0]


def say(model: LM, tokenizer: Tokenizer, prompt: Any, max_new_tokens: int) -> str:
    """What the model makes of a prompt, with the usual temperature and seed 1."""
    return list(generate(model, tokenizer, prompt, max_new_tokens=max_new_tokens, seed=1))[-1].result.text


def samples(model: LM, tokenizer: Tokenizer) -> dict[str, str]:
    return {prompt: say(model, tokenizer, prompt, 80) for prompt in PROMPTS}


def keep(folder: Path, out: Path) -> None:
    """The checkpoint's weights in bfloat16, in small shards."""
    model, tokenizer = load(folder)
    save(out, model, tokenizer, dtype=torch.bfloat16, shard_bytes=SHARD_BYTES)


def circumstances(command: str, device: str, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """What a result file says about how it came to be."""
    found = {
        "command": command,
        "commit": commit(),
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": pick_device(device).describe(),
    }
    if tokenizer is None:
        return found
    said = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.sha256}
    return found | {"tokenizer": said}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
