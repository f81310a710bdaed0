"""Channel mixers beside each other on one input and one residual stream: time, and what training keeps of a call."""

import argparse
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import alternate, spread, write
from positronic.lm import MixerOutput
from positronic.nn.init import initialize
from positronic.nn.linear import linear, residual_std
from positronic.nn.norm import RMSNorm
from positronic.nn.stack import Residual, SharedParts
from positronic.state import Step
from positronic.train import Device, pick_device
from positronic.train.device import INDUCTOR

__all__ = ["CALLS", "VOCABULARY", "Form", "OneProduct", "asking", "measure", "ns_per_token", "ratio", "repeat", "run"]

VOCABULARY, DOCUMENT_TOKENS, BOUNDARY = 16_512, 400, 0
CALLS = 5
"""Calls in a row that make one measurement on a GPU, so that the host runs ahead as it does in training."""


class OneProduct(nn.Module):
    """SwiGLU whose gate and up are one matrix."""

    def __init__(self, d_model: int, hidden: int, n_branches: int):
        super().__init__()
        self.norm, self.both = RMSNorm(d_model), linear(d_model, 2 * hidden)
        self.down = linear(hidden, d_model, residual_std(n_branches))

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        gate, up = self.both(self.norm(x)).chunk(2, -1)
        return MixerOutput(self.down(F.silu(gate) * up))


def run(
    name: str,
    description: str | None,
    compare: Callable[[int, int, int, Device], dict[str, Any]],
    on_cuda: tuple[int, int, int] = (32, 2048, 20),
    on_cpu: tuple[int, int, int] = (2, 256, 7),
    peers: tuple[str, ...] = (),
) -> None:
    """The command of a benchmark of mixers: reads rows, length, rounds and device, writes what `compare` found."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--length", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    a = parser.parse_args()
    device = pick_device(a.device)
    kind = device.torch_device.type
    rows, length, rounds = (
        given or usual
        for given, usual in zip((a.rows, a.length, a.rounds), on_cuda if kind == "cuda" else on_cpu, strict=True)
    )
    torch.set_float32_matmul_precision("high")
    results = compare(rows, length, rounds, device)
    command = f"python -m benchmarks.{name} --device {a.device} --rows {rows} --length {length} --rounds {rounds}"
    path = write(f"{name}_{kind}", command, results, packages=("torch", "triton", *peers))
    print(f"{path}: times the peer {results['ratio']}")


@dataclass(frozen=True)
class Form:
    """A mixer and how it runs."""

    mixer: nn.Module
    compiled: bool
    rows: int | None = None
    """Rows it gets, where all would not fit into memory."""
    kernels: str = ""
    """What POSITRONIC_KERNELS is while it runs."""


def measure(
    forms: dict[str, Form],
    shared: SharedParts,
    d_model: int,
    *,
    rows: int,
    length: int,
    rounds: int,
    device: Device,
) -> dict[str, Any]:
    """Median times of all forms, taken in turn, and bytes a token; a form with fewer rows says how many."""
    place, cuda = device.torch_device, device.torch_device.type == "cuda"
    # One graph a form and a mode, all of one function's code; past its limit torch runs forms uncompiled.
    torch._dynamo.config.recompile_limit = 4 * len(forms)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    tokens = tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < 1 / DOCUMENT_TOKENS, BOUNDARY)
    tokens = tokens.to(place)
    x = torch.randn(rows, length, d_model, generator=generator).to(place)
    x = x.bfloat16() if device.bfloat16 else x
    initialize(shared.to(place), 0)
    forward: dict[str, Callable[[], None]] = {}
    both: dict[str, Callable[[], None]] = {}
    memory = {}
    for name, form in forms.items():
        block, n = Residual(form.mixer).to(place), form.rows or rows
        initialize(block, 0)
        if form.compiled:
            block.compile(dynamic=False, options=INDUCTOR)
        with torch.no_grad():
            step, _ = shared(Step.of(tokens[:n], boundary_id=BOUNDARY))
        forward[name] = partial(_forward, block, x[:n], step, device)
        both[name] = partial(_both, block, x[:n].clone().requires_grad_(), step, device)
        taken = asking(form.kernels, _memory, block, x[:n], step, device)
        memory[name] = {k: v / (n * length) for k, v in taken.items()}
    settle = torch.cuda.synchronize if cuda else lambda: None
    calls = CALLS if cuda else 1
    timed = {
        kind: alternate(
            {k: partial(asking, forms[k].kernels, repeat, run, calls) for k, run in runs.items()},
            rounds=rounds,
            settle=settle,
        )
        for kind, runs in (("forward", forward), ("forward and backward", both))
    }
    shared_s = alternate({"shared": partial(_shared, shared, tokens)}, rounds=rounds, settle=settle)["shared"]
    return {
        "rows": rows,
        "length": length,
        "precision": "bfloat16" if device.bfloat16 else "float32",
        "fewer_rows": {name: form.rows for name, form in forms.items() if (form.rows or rows) != rows},
        "parameters": {name: sum(p.numel() for p in form.mixer.parameters()) for name, form in forms.items()},
        "bytes_per_token": memory,
        "seconds": {
            kind: {name: spread([t / calls for t in seconds]) for name, seconds in runs.items()}
            for kind, runs in timed.items()
        },
        "shared_parts_once_a_call": spread(shared_s),
    }


def ratio(results: dict[str, Any], peers: Collection[str]) -> dict[str, dict[str, float]]:
    """Every other form's time a token over that of the fastest peer."""
    found = {}
    for kind in results["seconds"]:
        times = ns_per_token(results, kind)
        best = min(times[peer] for peer in peers)
        found[kind] = {name: round(t / best, 3) for name, t in times.items() if name not in peers}
    return found


def ns_per_token(results: dict[str, Any], kind: str) -> dict[str, float]:
    """Median nanoseconds a token of every form, whatever rows it had."""
    rows = {name: results["fewer_rows"].get(name, results["rows"]) for name in results["parameters"]}
    return {n: 1e9 * s["median_s"] / (rows[n] * results["length"]) for n, s in results["seconds"][kind].items()}


def _memory(block: nn.Module, x: Tensor, step: Step, device: Device) -> dict[str, float]:
    """Bytes that forward leaves behind for backward, its output included, and on a GPU the most that both took."""
    x = x.clone().requires_grad_()
    _both(block, x, step, device)
    if device.torch_device.type != "cuda":
        cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=cpu, profile_memory=True) as profile, device.autocast():
            y = block(x, step).y
        del y
        return {"kept": float(sum(event.self_cpu_memory_usage for event in profile.key_averages()))}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with device.autocast():
        y = block(x, step).y
    kept = torch.cuda.memory_allocated() - before
    y.backward(torch.ones_like(y))
    block.zero_grad(set_to_none=True)
    return {"kept": float(kept), "peak": float(torch.cuda.max_memory_allocated() - before)}


def asking(kernels: str, call: Callable[..., Any], *given: Any) -> Any:
    """What a call returns that finds this in POSITRONIC_KERNELS."""
    before = os.environ.get("POSITRONIC_KERNELS", "")
    os.environ["POSITRONIC_KERNELS"] = kernels
    try:
        return call(*given)
    finally:
        os.environ["POSITRONIC_KERNELS"] = before


def repeat(run: Callable[[], None], calls: int) -> None:
    for _ in range(calls):
        run()


@torch.no_grad()
def _forward(block: nn.Module, x: Tensor, step: Step, device: Device) -> None:
    with device.autocast():
        block(x, step)


@torch.no_grad()
def _shared(shared: SharedParts, tokens: Tensor) -> None:
    shared(Step.of(tokens, boundary_id=BOUNDARY))


def _both(block: nn.Module, x: Tensor, step: Step, device: Device) -> None:
    with device.autocast():
        y = block(x, step).y
    y.backward(torch.ones_like(y))
    x.grad = None
    block.zero_grad(set_to_none=True)
