"""Readings of what is read off the trunk: features, logits, draft heads, the JEPA head, and the score."""

import math
from collections.abc import Iterator
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.lm import LM
from positronic.nn.head import LARGEST_SCALE, SMALLEST_SCALE, LMHead
from positronic.observe.health.findings import FLAT, USELESS
from positronic.observe.health.registry import Reading, numbers
from positronic.state import Step

__all__ = ["Scored", "read_heads", "read_score"]

LARGEST_POWER = 1023.0
"""Of two, that a float holds."""


class Scored(Protocol):
    """What `eval.bits_per_byte` returns."""

    @property
    def tokens(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def bits_per_byte(self) -> float: ...


def read_heads(model: LM, rows: Tensor, hidden: Tensor) -> Iterator[tuple[str, Reading]]:
    """Path and reading, from hidden (B, T, D) of the tokens `rows` (B, T)."""
    unit = F.rms_norm(hidden.float(), hidden.shape[-1:])
    deviation = unit.std(1, correction=0).mean()
    yield "trunk", Reading("feature deviation", numbers(deviation), "collapsed features" if deviation < FLAT else "")
    for path, module in cast(nn.Module, model).named_modules():
        if isinstance(module, LMHead):
            scale = float(module.scale)
            held = not SMALLEST_SCALE < scale < LARGEST_SCALE
            yield path, Reading("logit scale", (scale,), "logit scale at bound" if held else "")
    documents = Step.of(rows, boundary_id=model.config.boundary_id).documents()
    if model.drafts is not None:
        agreed = _agreement(model, hidden, documents)
        yield (
            "drafts",
            Reading("acceptance of each head", agreed, "useless draft head" if min(agreed) < USELESS else ""),
        )
    if model.latents is not None and model.latents.ahead < rows.shape[1]:
        a = model.latents.ahead
        together = documents[:, a:] == documents[:, :-a]
        near = F.cosine_similarity(model.latents(hidden[:, :-a]).float(), unit[:, a:], dim=-1)[together]
        yield "latents", Reading("distance of the guess", numbers(1 - near.mean()))


def _agreement(model: LM, hidden: Tensor, documents: Tensor) -> tuple[float, ...]:
    """How often each draft head says what the model itself says as many tokens later, inside one document."""
    assert model.drafts is not None, "asked for only where there are heads"
    if not hidden.isfinite().all():
        return (math.nan,) * len(model.drafts)
    own, shares = _likeliest(model, hidden), []
    for k in range(1, len(model.drafts) + 1):
        if k >= hidden.shape[1]:
            break
        guess = _likeliest(model, model.drafts[k - 1](hidden[:, :-k]))
        together = documents[:, k:] == documents[:, :-k]
        shares.append(float((guess == own[:, k:])[together].float().mean()))
    return tuple(shares)


def _likeliest(model: LM, hidden: Tensor) -> Tensor:
    """(B, T, D) -> (B, T) tokens, a row at a time."""
    return torch.stack([model.logits(row).argmax(-1) for row in hidden])


def read_score(score: Scored, vocab_size: int) -> Iterator[tuple[str, Reading]]:
    """Bits per byte beside those of a uniform guess of every token, and the perplexity that they are with this text."""
    uniform = math.log2(vocab_size) * score.tokens / score.bytes
    lost = score.bits_per_byte >= uniform
    yield "head", Reading("bits per byte", (score.bits_per_byte,), "worse than a guess" if lost else "")
    bits_per_token = score.bits_per_byte * score.bytes / score.tokens
    yield "head", Reading("perplexity of a token", (2.0 ** min(bits_per_token, LARGEST_POWER),))
