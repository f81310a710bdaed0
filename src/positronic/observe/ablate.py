"""Organs off: the same weights with some mechanisms silenced, at evaluation, by replacing what passes at their taps.

An organ is named by the kind of its config, and all modules of that kind are silenced together. At which taps an organ
is heard, and what passes there when it is not, its module declares (`probe.Tap`): a branch or a current is 0, a factor
1, a modulation neutral. So a new mechanism needs nothing here. Weights and state keep their shape, and an organ that is
silenced still writes its memories. Switching a mechanism off says what the rest lost with it, not what it would have
learned without it. A layer is addressed by its number, from 1: its mixers' branches are silenced one at a time.

What that costs is a difference of bits per byte over documents, with a bootstrap interval: documents are drawn again
with replacement `RESAMPLES` times, and the middle `CONFIDENCE` of the differences kept.

    change = sum over documents of (nats without - nats) / ln 2 / sum of their bytes        positive: the organ helps

    carries    the interval lies above 0 and the change above `CARRIES` bits per byte
    helps      the interval lies above 0
    idle       the interval covers 0, or the change is below `NOTICEABLE`, where roundings could make it
    hurts      the interval lies below 0

On one prompt there is nothing to draw an interval from: then how far logits move, and what would come next.

Source   Efron 1979, "Bootstrap methods: another look at the jackknife" (percentiles of resampled documents).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from positronic.errors import ConfigError, DataError
from positronic.lm import LM
from positronic.nn.stack import Residual
from positronic.observe.module_paths import Place, kind_of, module_paths
from positronic.probe import Probe, Tap, Verb, capture, replace
from positronic.state import ForwardOptions

__all__ = [
    "Change",
    "Moved",
    "ablate",
    "changes",
    "check_documents",
    "mixers_of",
    "moved",
    "organs_of",
    "verdict",
]

RESAMPLES = 2000
CONFIDENCE = 0.95
CARRIES = 0.05
"""Bits per byte that an organ must be worth to be said to carry the model."""
NOTICEABLE = 5e-4
"""Smallest change, in bits per byte and either way, that is more than idle."""
FEWEST_DOCUMENTS = 8
"""With fewer, the interval says more about the choice of documents than about the organ."""


class Change(NamedTuple):
    """What is lost without a part of the model; negative: won."""

    bits_per_byte: float
    low: float
    """End of the interval."""
    high: float


class Moved(NamedTuple):
    """What becomes of the logits of a prompt without a part of the model."""

    largest_change: float
    """Of a logit, absolute, over all its tokens."""
    flips: int
    """Tokens whose most likely successor becomes another."""
    next_flips: bool
    """Whether that of the last one does."""


def ablate(model: LM, organs: Iterable[str]) -> Probe:
    """A probe under which these organs are silent; one that the model lacks raises `ConfigError`."""
    known = organs_of(model)
    verbs: dict[str, Verb] = {}
    for organ in organs:
        if organ not in known:
            raise ConfigError(
                f"This model has no organ {organ!r} that evaluation could do without; it has {', '.join(known)}. "
                f"Name some of these."
            )
        verbs |= known[organ]
    return Probe(cast(nn.Module, model), verbs)


@torch.no_grad()
def organs_of(model: LM) -> dict[str, dict[str, Verb]]:
    """The organs that can be silenced, by name, and what to do at which taps; found by reading two tokens."""
    module = cast(nn.Module, model)
    seen = Probe(module, {"*": capture})
    tokens = torch.zeros(1, 2, dtype=torch.long, device=next(module.parameters()).device)
    model(tokens, options=ForwardOptions(probe=seen))
    found: dict[str, dict[str, Verb]] = {}
    for address in sorted(seen.seen):
        path, _, tap = address.partition(":")
        organ, silent = _silenced(module.get_submodule(path), tap)
        if organ:
            found.setdefault(organ, {})[address] = replace(silent)
    return dict(sorted(found.items()))


@torch.no_grad()
def mixers_of(model: LM) -> dict[Place, Probe]:
    """Each mixer of each layer, and the probe under which it alone is silent, in the order of the trunk."""
    module = cast(nn.Module, model)
    where = module_paths(module)
    blocks = [path for path, block in module.named_modules() if isinstance(block, Residual) and kind_of(block.mixer)]
    found = {path: where[f"{path}.mixer"] for path in blocks}
    return {
        place: Probe(module, {f"{path}:*branch": replace(torch.zeros_like)})
        for path, place in found.items()
        if place.layer is not None
    }


@torch.no_grad()
def moved(model: LM, ids: Sequence[int], probes: Iterable[Probe]) -> list[Moved]:
    """How far the logits of one prompt move under each probe."""
    tokens = torch.tensor([list(ids)], device=next(cast(nn.Module, model).parameters()).device)

    def logits(probe: Probe | None) -> Tensor:
        return model.logits(model(tokens, options=ForwardOptions(probe=probe)).hidden[0]).float()  # (T, W)

    whole, found = logits(None), []
    for probe in probes:
        other = logits(probe)
        flipped = other.argmax(-1) != whole.argmax(-1)
        found.append(Moved(float((other - whole).abs().max()), int(flipped.sum()), bool(flipped[-1])))
    return found


def check_documents(n: int) -> None:
    """Raise unless n documents are enough for an interval."""
    if n < FEWEST_DOCUMENTS:
        raise DataError(
            f"The data holds {n} document{'s' * (n != 1)}, and an interval needs {FEWEST_DOCUMENTS}; give more files, "
            f"a jsonl of one text a line, or a text with <|endoftext|> between its documents."
        )


def changes(nats: np.ndarray, without: np.ndarray, n_bytes: np.ndarray, seed: int = 0) -> list[Change]:
    """What each of k versions loses: nats (n,) and bytes (n,) of n documents, nats without (k, n)."""
    n = len(n_bytes)
    check_documents(n)
    if not (np.isfinite(nats).all() and np.isfinite(without).all()):
        raise DataError(
            "The model's score on this data is not finite, so nothing can be compared; `positronic health` says where."
        )
    lost = (without - nats) / math.log(2)  # (k, n)
    random = np.random.default_rng(seed)
    drawn = (random.integers(n, size=n) for _ in range(RESAMPLES))
    resampled = np.stack([lost[:, rows].sum(1) / n_bytes[rows].sum() for rows in drawn], 1)  # (k, RESAMPLES)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=1)
    middle = lost.sum(1) / n_bytes.sum()
    return [Change(*map(float, row)) for row in zip(middle, low, high, strict=True)]


def verdict(change: Change) -> str:
    """carries, helps, idle or hurts."""
    if abs(change.bits_per_byte) < NOTICEABLE:
        return "idle"
    if change.low > 0:
        return "carries" if change.bits_per_byte > CARRIES else "helps"
    return "hurts" if change.high < 0 else "idle"


def _silenced(owner: nn.Module, name: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The organ that is heard at this tap, "" for none, and what passes there when it is not."""
    tap: Tap | None = getattr(owner, "taps", {}).get(name)
    if tap is None or tap.silent is None:
        return "", torch.zeros_like
    return tap.organ or kind_of(owner.mixer if isinstance(owner, Residual) else owner), tap.silent
