"""Training step of the control against a plain GPT loop of equal shape, in the same run.

    python -m benchmarks.train_step                        CPU: tinygpt-tiny, 8 rows of 256
    python -m benchmarks.train_step --device cuda          tinygpt-15m, 64 rows of 1,024, bfloat16, both compiled

Two peers: GPT-2's block, and the very layers of the control, both in a plain loop, compiled whole on CUDA.
Equal shape: width, depth, heads, vocabulary, context and parameters (the plain MLP's width makes up the difference).
Both read random tokens, clip, step a fused AdamW and read the loss back. Ours runs as in training: through the stepper,
documents kept apart where rows hold ends of documents (`documents`), or one document a row (`one document`).
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from benchmarks.peers import PlainGPT, SameLayers, plain_step
from benchmarks.record import alternate, spread, write
from positronic.data import TokenBatch
from positronic.models import build, preset
from positronic.observe import describe
from positronic.train import AdamWConfig, Backprop, NextTokenConfig, pick_device
from positronic.train.device import compile_blocks

DOCUMENT_TOKENS = 400
"""Mean length of a document in the rows with documents."""
PEAK_BFLOAT16 = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12}
"""Dense operations a second, by the vendor's data sheets."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default=None)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    a = parser.parse_args()
    device = pick_device(a.device)
    cuda = device.torch_device.type == "cuda"
    name = a.model or ("tinygpt-15m" if cuda else "tinygpt-tiny")
    rows, rounds = a.rows or (64 if cuda else 8), a.rounds or (30 if cuda else 12)
    torch.set_float32_matmul_precision("high")
    results = measure(name, rows, rounds, a.device)
    command = f"python -m benchmarks.train_step --device {a.device} --model {name} --rows {rows} --rounds {rounds}"
    path = write(f"train_step_{device.torch_device.type}", command, results, packages=("torch", "triton"))
    print(f"{path}: ours / plain tokens per second {results['ratio']}")


def measure(name: str, rows: int, rounds: int, where: str) -> dict[str, Any]:
    device = pick_device(where)
    place, cuda = device.torch_device, device.torch_device.type == "cuda"
    config = replace(preset(name), boundary_id=0)
    generator = torch.Generator().manual_seed(0)
    plain_tokens = torch.randint(1, config.vocab_size, (rows, config.context + 1), generator=generator)
    ends = torch.rand(plain_tokens.shape, generator=generator) < 1 / DOCUMENT_TOKENS
    batches = {"one document": plain_tokens, "documents": plain_tokens.masked_fill(ends, 0)}
    forms = {
        f"ours, {k}": _ours(config if k == "documents" else replace(config, boundary_id=None), t, device)
        for k, t in batches.items()
    }
    size = describe(config).total
    peer = equal_peer(config, size).to(place)
    if cuda:
        peer.compile(dynamic=False)
    same = SameLayers(cast(nn.Module, build(replace(config, boundary_id=None), device=place)))
    if cuda:
        same.compile(dynamic=False)
    x, y = (t.contiguous().to(place) for t in (plain_tokens[:, :-1], plain_tokens[:, 1:]))
    for kind, model in (("plain GPT", peer), ("plain loop, same layers", same)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        forms[kind] = partial(plain_step, model, optimizer, x, y, device.bfloat16)
    seconds = alternate(forms, rounds=rounds, warmup=4, settle=torch.cuda.synchronize if cuda else lambda: None)
    tokens = rows * config.context
    flops = 3 * describe(config).flops_per_token
    found: dict[str, dict[str, Any]] = {
        k: spread(s) | {"tokens_per_s": tokens / spread(s)["median_s"]} for k, s in seconds.items()
    }
    peak = PEAK_BFLOAT16.get(torch.cuda.get_device_name()) if cuda else None
    for form in found.values():
        form["tflops"] = form["tokens_per_s"] * flops / 1e12
        form["mfu"] = None if peak is None else form["tokens_per_s"] * flops / peak
    rates = {k: form["tokens_per_s"] for k, form in found.items()}
    return {
        "model": name,
        "parameters": {"ours": size, "plain": sum(p.numel() for p in peer.parameters())},
        "rows": rows,
        "context": config.context,
        "precision": "bfloat16" if device.bfloat16 else "float32",
        "forms": found,
        "ratio": {p: {k: rates[k] / rates[p] for k in rates if "ours" in k} for p in rates if "plain" in p},
    }


def _ours(config: Any, tokens: torch.Tensor, device: Any) -> Any:
    model: Any = build(config, device=device.torch_device)
    if device.torch_device.type == "cuda":
        compile_blocks(cast(nn.Module, model))
    objective = NextTokenConfig(z_loss=0.0).build()
    stepper = Backprop(AdamWConfig().build(model), device)
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    batch = TokenBatch(x, y, torch.ones_like(y, dtype=torch.bool)).to(device.torch_device)
    counts = objective.counts(batch)
    model.train()
    return lambda: stepper(model, objective, [batch], counts, 1.0)()


def equal_peer(config: Any, parameters: int) -> PlainGPT:
    """The plain model whose MLP is as wide as makes the parameters equal."""
    d, layers = config.d_model, config.n_layers
    fixed = (config.vocab_size + config.context) * d + layers * (4 * d * d + 2 * d) + d
    hidden = round((parameters - fixed) / (layers * 2 * d) / 64) * 64
    return PlainGPT(config.vocab_size, d, layers, config.attention.n_heads, config.context, hidden)


if __name__ == "__main__":
    main()
