"""A checkpoint small enough to mutate by the hundred: a model none of whose tensors is like another."""

import json
from pathlib import Path

import torch

from positronic.checkpoint import TrainingPart
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.transformer import TransformerConfig

TOKENS = torch.arange(24).reshape(2, 12)


def small_config(vocab_size: int, **changes) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=16,
        context=16,
        max_positions=32,
        n_layers=2,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=8, rank=8, rope_dims=4),
        channel=SwiGLUConfig(hidden=24),
    ).replace(**changes)


def small_model(vocab_size: int, seed: int = 1, **changes):
    """Every parameter is noise, so that no two tensors agree and each one moves the logits."""
    model = build(small_config(vocab_size, **changes), seed).eval()
    noise = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=noise)
    return model


def training_part() -> TrainingPart:
    noise = torch.Generator().manual_seed(5)
    tensors = {
        "optimizer.0.exp_avg": torch.randn(7, 3, generator=noise),
        "optimizer.0.step": torch.tensor(12.0),
        "rng.cpu": torch.arange(50, dtype=torch.uint8),
        "half": torch.randn(5, generator=noise).bfloat16(),
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
    }
    return TrainingPart(tensors, {"step": 12, "lr": 0.1 + 0.2, "taken": [3, 4], "note": "naïve", "none": None})


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(TOKENS).hidden)


def parts(path: Path) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def put_parts(path: Path, header: dict | bytes, data: bytes) -> None:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
