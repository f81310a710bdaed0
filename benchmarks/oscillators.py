"""One oscillator mixer against SwiGLU of equal size: forward, and forward with backward, and what each organ adds.

    python -m benchmarks.oscillators --device cuda         32 rows of 2,048, bfloat16, compiled
    python -m benchmarks.oscillators                       CPU: 2 rows of 256, float32, eager

Everything reads the same input and writes the same residual stream. Peers are three forms of SwiGLU, of which the
fastest counts: gate and up as two products, as one, and at a width that is a multiple of 128.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import alternate, spread, write
from positronic.lm import MixerOutput
from positronic.mixers.kuramoto import KuramotoConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import preset
from positronic.nn.init import initialize
from positronic.nn.linear import Linear, residual_std
from positronic.nn.norm import RMSNorm
from positronic.nn.stack import Residual, SharedParts
from positronic.state import Step
from positronic.train import pick_device

VOCABULARY, DOCUMENT_TOKENS, BOUNDARY = 16_512, 400, 0
EQUAL, ALIGNED = 2_696, 2_688


class OneProduct(nn.Module):
    """SwiGLU whose gate and up are one matrix."""

    def __init__(self, d_model: int, hidden: int, n_branches: int):
        super().__init__()
        self.norm, self.both = RMSNorm(d_model), Linear(d_model, 2 * hidden)
        self.down = Linear(hidden, d_model, residual_std(n_branches))

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        gate, up = self.both(self.norm(x)).chunk(2, -1)
        return MixerOutput(self.down(F.silu(gate) * up))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--length", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    a = parser.parse_args()
    cuda = pick_device(a.device).torch_device.type == "cuda"
    rows, length = a.rows or (32 if cuda else 2), a.length or (2048 if cuda else 256)
    rounds = a.rounds or (20 if cuda else 7)
    torch.set_float32_matmul_precision("high")
    results = measure(rows, length, rounds, a.device)
    command = f"python -m benchmarks.oscillators --device {a.device} --rows {rows} --length {length} --rounds {rounds}"
    path = write(f"oscillators_{'cuda' if cuda else 'cpu'}", command, results, packages=("torch", "triton"))
    print(f"{path}: times the fastest SwiGLU {results['ratio']}")


def mixers() -> dict[str, nn.Module]:
    """The peers, the bare oscillators, and these with one organ each and with all."""
    config: Any = preset("positronic-144m")
    d, branches, whole = config.d_model, 2 * config.n_layers, config.oscillators
    bare: KuramotoConfig = replace(whole, phase_seed=None, controller=None, injections=())
    forms: dict[str, nn.Module] = {
        f"swiglu {EQUAL}, two products": SwiGLUConfig(hidden=EQUAL).build(d, branches),
        f"swiglu {EQUAL}, one product": OneProduct(d, EQUAL, branches),
        f"swiglu {ALIGNED}, one product": OneProduct(d, ALIGNED, branches),
        "oscillators": bare.build(d, branches),
        "with phase seed": replace(bare, phase_seed=whole.phase_seed).build(d, branches),
        "with ring controller": replace(bare, controller=whole.controller).build(d, branches),
        **{f"with {organ.kind}": replace(bare, injections=(organ,)).build(d, branches) for organ in whole.injections},
        "with all organs": whole.build(d, branches),
    }
    return forms


def measure(rows: int, length: int, rounds: int, where: str) -> dict[str, Any]:
    device = pick_device(where)
    place, cuda = device.torch_device, device.torch_device.type == "cuda"
    config: Any = preset("positronic-144m")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    tokens = tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < 1 / DOCUMENT_TOKENS, BOUNDARY)
    tokens = tokens.to(place)
    shared = SharedParts(config.oscillators.shared_parts(VOCABULARY)).to(place)
    initialize(shared, 0)
    x = torch.randn(rows, length, config.d_model, generator=generator).to(place)
    x = x.bfloat16() if device.bfloat16 else x
    with torch.no_grad():
        step, _ = shared(Step.of(tokens, boundary_id=BOUNDARY))
    forward: dict[str, Callable[[], None]] = {}
    both: dict[str, Callable[[], None]] = {}
    sizes, memory = {}, {}
    for name, mixer in mixers().items():
        block = Residual(mixer).to(place)
        initialize(block, 0)
        if cuda:
            block.compile(dynamic=False)
        sizes[name] = sum(p.numel() for p in block.parameters())
        forward[name] = partial(_forward, block, x, step, device)
        both[name] = partial(_both, block, x.clone().requires_grad_(), step, device)
        if cuda:
            both[name]()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            both[name]()
            memory[name] = (torch.cuda.max_memory_allocated() - before) / 1e9
    settle = torch.cuda.synchronize if cuda else lambda: None
    timed = {
        "forward": alternate(forward, rounds=rounds, settle=settle),
        "forward and backward": alternate(both, rounds=rounds, settle=settle),
    }
    shared_s = alternate({"shared": partial(_shared, shared, tokens)}, rounds=rounds, settle=settle)["shared"]
    found = {kind: {name: spread(s) for name, s in forms.items()} for kind, forms in timed.items()}
    best = {kind: min(f["median_s"] for n, f in forms.items() if "swiglu" in n) for kind, forms in found.items()}
    ours = [name for name in sizes if "swiglu" not in name]
    return {
        "rows": rows,
        "length": length,
        "precision": "bfloat16" if device.bfloat16 else "float32",
        "compiled": cuda,
        "parameters": sizes,
        "peak_gb_above_input": memory,
        "seconds": found,
        "shared_parts_once_a_call": spread(shared_s),
        "ratio": {k: {n: round(forms[n]["median_s"] / best[k], 3) for n in ours} for k, forms in found.items()},
    }


@torch.no_grad()
def _forward(block: nn.Module, x: Tensor, step: Step, device: Any) -> None:
    with device.autocast():
        block(x, step)


@torch.no_grad()
def _shared(shared: SharedParts, tokens: Tensor) -> None:
    shared(Step.of(tokens, boundary_id=BOUNDARY))


def _both(block: nn.Module, x: Tensor, step: Step, device: Any) -> None:
    with device.autocast():
        y = block(x, step).y
    y.backward(torch.ones_like(y))
    x.grad = None
    block.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
