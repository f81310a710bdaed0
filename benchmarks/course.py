"""The course's NumPy engine beside plain PyTorch on the same job: train `improved` on the stories, then write.

    OMP_NUM_THREADS=1 python -m benchmarks.course

Both begin with the same weights, read the same rows in the same order, clip and step alike (AdamW, in PyTorch fused)
and take turns, some steps each. That no side does less is checked: the losses of the first ten steps must agree to
1e-4. Writing is greedy, a token at a time with cached keys and values. Time is that of the processor, in one thread.
Memory is the peak of a whole process that does nothing but train: interpreter, libraries and arrays.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import write
from positronic_course.ch07_loss import ModelConfig
from positronic_course.ch09_optimisers import warm_up_cosine
from positronic_course.ch10_training import Trainer, batches
from positronic_course.ch11_generation import generate
from positronic_course.scripts.benchmark import exhaust, new_trainer

GOAL_TOKENS, GOAL_TIME = 1500, 1.5
Cache = list[tuple[Tensor, Tensor]]


class Peer(nn.Module):
    """The model of the course as one would write it in PyTorch: RMSNorm, rotary positions, SwiGLU, tied embeddings."""

    def __init__(self, config: ModelConfig, parameters: dict[str, np.ndarray]):
        super().__init__()
        self.config = config
        self.w = nn.ParameterDict({name.replace(".", "_"): torch.tensor(w) for name, w in parameters.items()})
        K = config.d_model // config.n_heads
        angles = torch.arange(2 * config.context)[:, None] * 10000.0 ** (-torch.arange(0, K, 2) / K)
        self.cos, self.sin = angles.cos(), angles.sin()

    def forward(self, ids: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        c, w = self.config, self.w
        start = cache[0][0].shape[2] if cache else 0
        B, T = ids.shape
        x, after = F.embedding(ids, w["embedding"]), []
        for layer in range(c.n_layers):
            at = f"blocks_{layer}_"
            n = F.rms_norm(x, (c.d_model,), w[at + "attention_norm_gain"], 1e-6)
            q, k, v = (
                (n @ w[at + f"attention_{name}"]).view(B, T, c.n_heads, -1).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            q, k = self.turn(q, start), self.turn(k, start)
            if cache:
                k, v = torch.cat([cache[layer][0], k], 2), torch.cat([cache[layer][1], v], 2)
            after.append((k, v))
            o = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
            x = x + o.transpose(1, 2).reshape(B, T, -1) @ w[at + "attention_out"]
            n = F.rms_norm(x, (c.d_model,), w[at + "feed_norm_gain"], 1e-6)
            x = x + (F.silu(n @ w[at + "feed_gate"]) * (n @ w[at + "feed_up"])) @ w[at + "feed_down"]
        return F.rms_norm(x, (c.d_model,), w["final_gain"], 1e-6) @ w["embedding"].T, after

    def turn(self, x: Tensor, start: int) -> Tensor:
        cos, sin = self.cos[start : start + x.shape[2]], self.sin[start : start + x.shape[2]]
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def peer_run(peer: Peer, trainer: Trainer) -> Iterator[float]:
    """The trainer's steps, in PyTorch; yields the loss after each."""
    t = trainer.training
    matrices = [p for p in peer.parameters() if p.dim() == 2]
    gains = [p for p in peer.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": t.decay}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    for step in range(trainer.steps):
        epoch, at = divmod(step, trainer.steps_an_epoch)
        if at == 0:
            rows = batches(trainer.corpus.training, trainer.config.context, t.rows, t.seed, epoch)
        ids, targets = map(torch.from_numpy, next(rows))
        for group in optimizer.param_groups:
            group["lr"] = warm_up_cosine(step, trainer.steps, t.peak, round(t.warm_up * trainer.steps))
        loss = F.cross_entropy(peer(ids)[0].flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), t.limit)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if at == trainer.steps_an_epoch - 1:
            peer_evaluate(peer, torch.from_numpy(trainer.corpus.held_out))
        yield loss.item()


@torch.inference_mode()
def peer_evaluate(peer: Peer, ids: Tensor) -> float:
    """Nats a token on the held-out text, as the course measures them after every epoch."""
    T = peer.config.context
    full = (len(ids) - 1) // T * T
    inputs, targets = ids[:full].view(-1, T).split(16), ids[1 : full + 1].view(-1, T).split(16)
    pairs = [*zip(inputs, targets, strict=True), (ids[None, full:-1], ids[None, full + 1 :])]
    losses = [F.cross_entropy(peer(x)[0].flatten(0, 1), y.flatten(), reduction="sum") for x, y in pairs if y.numel()]
    return float(sum(losses)) / (len(ids) - 1)


@torch.inference_mode()
def peer_generate(peer: Peer, n: int) -> list[int]:
    """Greedy, a token at a time; beyond the context from the latter half of the window, as the course does it."""
    text, unread, context = [65], [65], peer.config.context
    cache: Cache = []
    for _ in range(n):
        if (cache[0][0].shape[2] if cache else 0) + len(unread) > context:
            cache, unread = [], text[-(context // 2) :]
        logits, cache = peer(torch.tensor([unread]), cache)
        unread = [int(logits[0, -1].argmax())]
        text += unread
    return text[1:]


def take_turns(forms: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each form, A B A B ..., after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            start = time.process_time()
            form()
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


def compared(seconds: dict[str, list[float]], tokens: int) -> dict[str, Any]:
    """Tokens a CPU-second of both, and the course's time over PyTorch's, of the medians."""
    median = {name: statistics.median(s) for name, s in seconds.items()}
    return {
        **{name: {"tokens_per_cpu_s": tokens / median[name], "cpu_s": s} for name, s in seconds.items()},
        "time_over_pytorch": median["course"] / median["pytorch"],
    }


def peak(engine: str, config: str, steps: int) -> int | None:
    """Bytes of memory that a process takes which trains for some steps and does nothing else; Linux counts them."""
    run = {"course": "trainer.run()", "pytorch": "peer_run(Peer(trainer.config, trainer.parameters), trainer)"}
    program = f"""
from itertools import islice
from pathlib import Path
from positronic_course.scripts.benchmark import exhaust, new_trainer
{"" if engine == "course" else "from benchmarks.course import Peer, peer_run"}
trainer = new_trainer({config!r}, {steps})
exhaust(islice({run[engine]}, {steps}))
print(Path("/proc/self/status").read_text())
"""
    if not Path("/proc/self/status").exists():
        return None
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    found = re.search(r"VmHWM:\s*(\d+) kB", done.stdout)
    return int(found[1]) * 1024 if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="improved")
    parser.add_argument("--steps", type=int, default=60, help="of training in a turn")
    parser.add_argument("--tokens", type=int, default=200, help="to write in a turn")
    parser.add_argument("--rounds", type=int, default=9)
    a = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("Both engines shall use one thread: OMP_NUM_THREADS=1 python -m benchmarks.course")
    torch.set_num_threads(1)

    trainer = new_trainer(a.config, a.steps * (a.rounds + 1))
    peer = Peer(trainer.config, trainer.parameters)
    ours, theirs, losses = trainer.run(), peer_run(peer, trainer), []
    training = take_turns(
        {
            "course": lambda: exhaust(islice(ours, a.steps)),
            "pytorch": lambda: losses.extend(islice(theirs, a.steps)),
        },
        a.rounds,
    )
    if not np.allclose(trainer.losses[:10], losses[:10], rtol=1e-4):
        sys.exit(f"The engines do not train the same model: {trainer.losses[:10]} and {losses[:10]}.")
    written: dict[str, list[int]] = {}
    rng = np.random.default_rng(0)
    same = Peer(trainer.config, trainer.parameters)
    writing = take_turns(
        {
            "course": lambda: written.update(
                course=list(generate(trainer.parameters, trainer.config, [65], a.tokens, temperature=0, rng=rng))
            ),
            "pytorch": lambda: written.update(pytorch=peer_generate(same, a.tokens)),
        },
        a.rounds,
    )
    results = {
        "config": a.config,
        "goals": {"training_tokens_per_cpu_s": GOAL_TOKENS, "time_over_pytorch": GOAL_TIME},
        "training": compared(training, a.steps * trainer.training.rows * trainer.config.context),
        "last_losses": {"course": trainer.losses[-1], "pytorch": losses[-1]},
        "generation": compared(writing, a.tokens),
        "same_text": written["course"] == written["pytorch"],
        "peak_bytes": {engine: peak(engine, a.config, a.steps) for engine in ("course", "pytorch")},
    }
    command = f"OMP_NUM_THREADS=1 python -m benchmarks.course --config {a.config} --steps {a.steps} --rounds {a.rounds}"
    print(write("course_cpu", command, results, packages=("numpy", "torch")))


if __name__ == "__main__":
    main()
