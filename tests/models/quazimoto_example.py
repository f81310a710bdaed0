"""The oscillator family at its smallest with the whole anatomy; organs opened, one or all; a model with much to say."""

from typing import Any

import torch
from torch import Tensor

from positronic.models import build
from positronic.models.quazimoto import Quazimoto, QuazimotoConfig, positronic_tiny
from positronic.state import Step

BYTES, EOT = 384, 256
"""Vocabulary of the byte tokenizer, and its end of a document."""
OPENING = {
    "phase_seed": "seed_gate.",
    "controller": "shared.ring_controller.",
    "phase_attention": "injections.0.",
    "engram": "injections.1.",
    "specialists": "injections.2.",
    "hrm": "trunk.4.",
    "moe": "trunk.5.",
    "all": "",
    "none": "no parameter's name",
}
"""What the names of the parameters that open each organ of `small` have in common."""


def small(**changes: Any) -> QuazimotoConfig:
    """positronic-tiny, smaller still."""
    config = positronic_tiny()
    return config.replace(
        vocab_size=300,
        d_model=48,
        context=64,
        max_positions=512,
        n_layers=2,
        boundary_id=7,
        attention=config.attention.replace(head_dim=16, rank=24, rope_dims=8),
    ).replace(**changes)


def tokens_of(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(8, 300, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits_of(model, tokens: Tensor, **wishes) -> Tensor:
    step = Step(tokens, tokens, **wishes) if wishes else None
    return model.logits(model(tokens, step=step).hidden)


def opened(model, tanh: float = 0.5, organ: str = "all"):
    """The gates of an organ at tanh g = 0.5 and its zero-started values filled, so that it is not silent."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if OPENING[organ] not in name:
                continue
            if name.rpartition(".")[2] == "g":
                p.fill_(torch.atanh(torch.tensor(tanh)))
            elif not p.any():
                p.normal_(0.0, 0.2, generator=generator)
    return model.eval()


def loud(model):
    """Matrices larger than at the start: margins exist and every branch matters, as after training.

    Couplings keep their size: four times as strong, rings amplify a rounding a hundredfold.
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2 and not name.endswith("coupling"):
                p.mul_(6.0 if name.startswith("embed") else 4.0)
        model.head.scale.fill_(1.5)
    return model


def speaking(organ: str = "all") -> Quazimoto:
    """A model whose texts do not repeat themselves, with an organ open, or all."""
    return loud(opened(build(small(vocab_size=BYTES, boundary_id=EOT), seed=1), organ=organ))
