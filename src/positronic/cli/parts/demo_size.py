"""What the demo trains: the largest of three models to which this machine, as busy as it is now, teaches something.

A step is timed before anything else is settled. On a slow or busy machine fewer bytes are measured too, or measuring
would take the time that is for learning.
"""

import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from positronic.models.quazimoto import QuazimotoConfig

__all__ = ["Size", "fitting", "measured_bytes", "sizes"]

ENOUGH_STEPS = 120
"""After so many updates each of the sizes has left a unigram model behind."""
OPTIMIZER = 1.3
"""A whole step, times its forward and backward pass."""
MEASURED_BYTES, FEWEST_BYTES = 120_000, 12_000
"""Of held-out text: what tells models apart well, and what still says which is better."""
MEASURING_SHARE = 0.15
"""Of the time for training, for measuring."""
READINGS, PASSES, BYTES_A_TOKEN = 3, 2, 3.0
"""Held-out text is read before, at the end and for the report, and every token of it about twice, of so many bytes."""
FORWARD = 1 / 3
"""Of a forward and backward pass."""


class Size(NamedTuple):
    name: str
    model: "QuazimotoConfig"
    batch_tokens: int
    step_s: float = 0.0
    """Seconds of one update on this machine; 0 before it was timed."""


def sizes() -> tuple[Size, ...]:
    """positronic-tiny, and the same anatomy narrower, with shorter rows and fewer layers; the last one has one."""
    from dataclasses import replace

    from positronic.models.quazimoto import positronic_tiny

    tiny = positronic_tiny()

    def smaller(d_model: int, n_layers: int, context: int, rings: tuple[int, ...], organs: int) -> "QuazimotoConfig":
        """organs: how many of a bank's injections and of the refiners stay."""
        bank = replace(tiny.oscillators, rings=rings, injections=tiny.oscillators.injections[:organs])
        attention = tiny.attention.replace(n_heads=2, head_dim=d_model // 2, rank=None, rope_dims=d_model // 4)
        return replace(
            tiny,
            d_model=d_model,
            n_layers=n_layers,
            context=context,
            attention=attention,
            oscillators=bank,
            refiners=tuple(refiner.replace(hidden=d_model) for refiner in tiny.refiners[:organs]),
            drafts=tiny.drafts and tiny.drafts.replace(hidden=d_model),
            latents=None,
        )

    return (
        Size("positronic-tiny", tiny, 1024),
        Size("half of positronic-tiny", smaller(96, 2, 128, tiny.oscillators.rings, 2), 1024),
        Size("a fraction of positronic-tiny", smaller(64, 1, 64, (4, 8, 16), 0), 1024),
    )


def fitting(seconds: float, timed: Any = None) -> tuple[Size, list[Size]]:
    """The largest size that can take `ENOUGH_STEPS` in this time, else the smallest; and those found too slow.

    timed(size) gives the seconds of a step: `step_seconds` unless a test says otherwise.
    """
    slower: list[Size] = []
    for size in sizes():
        size = size._replace(step_s=(timed or step_seconds)(size))
        if ENOUGH_STEPS * size.step_s <= seconds:
            return size, slower
        slower.append(size)
    return slower.pop(), slower


def step_seconds(size: Size) -> float:
    """One update, timed after one that warms things up."""
    import torch
    from torch.nn import functional as F

    from positronic.models import build

    model: Any = build(size.model, 0)
    rows = size.batch_tokens // size.model.context
    tokens = torch.randint(
        size.model.vocab_size, (rows, size.model.context), generator=torch.Generator().manual_seed(0)
    )
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        logits = model.logits(model(tokens).hidden)
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        took = time.perf_counter() - began
    return OPTIMIZER * took


def measured_bytes(size: Size, seconds: float) -> int:
    """How much held-out text is measured where `seconds` are for training."""
    a_token = FORWARD * size.step_s / size.batch_tokens
    most = MEASURING_SHARE * seconds * BYTES_A_TOKEN / (READINGS * PASSES * a_token)
    return max(FEWEST_BYTES, min(MEASURED_BYTES, int(most)))
