"""Next-token prediction: cross entropy, z-loss, and the losses of the model's organs and heads, weighed by name.

    total = (CE + z_loss * sum lse^2) / targets + sum over names of weight * sum(aux * tokens) / tokens
          + weight of mtp * mean over heads k of mtp.k / targets.k + weight of jepa * jepa.a / tokens.a

CE and lse^2 are sums over the targets that the loss mask counts; `aux` is what the model reports for a row (a mean over
its real tokens), and rows of unequal size weigh as their tokens do; the sums of the heads, where a model has any, are
those of `heads`. Fine-tuning on chats is the same arithmetic: there the mask counts what the assistant says.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from positronic.config import Config
from positronic.data import TokenBatch
from positronic.errors import ConfigError, TrainingError
from positronic.lm import LM, LMOutput
from positronic.train.objectives.cross_entropy import CrossEntropy, Head, sliced_cross_entropy
from positronic.train.objectives.heads import ahead, count_ahead, counted_ahead, jepa_sums, same_document
from positronic.train.objectives.objective import UNAIDED, Counts, Divisors, Loss, ObjectiveConfig

__all__ = ["AuxiliaryWeight", "NextToken", "NextTokenConfig", "weighed"]

SLICE_TARGETS = {"cuda": 16_384}
"""Where a slice of 2,048 would not fill the device."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryWeight(Config, kind="auxiliary_weight"):
    name: str
    """Name under which the model reports the loss, moe.balance say."""
    weight: float
    """What it is multiplied by; 0 watches it without training on it."""


@dataclass(frozen=True, kw_only=True)
class NextTokenConfig(ObjectiveConfig, kind="next_token"):
    z_loss: float = 1e-4
    """Weight of the squared log-partition, which keeps logits from drifting off."""
    slice_targets: int | None = None
    """Targets whose logits exist at once. None: 2,048, on CUDA 16,384."""
    auxiliary: tuple[AuxiliaryWeight, ...] = (
        AuxiliaryWeight(name="moe.balance", weight=0.01),
        AuxiliaryWeight(name="mtp", weight=0.3),
        AuxiliaryWeight(name="jepa", weight=0.1),
        AuxiliaryWeight(name="metric.triangle", weight=0.01),
        AuxiliaryWeight(name="mixture.entropy", weight=1e-3),
    )
    """A weight for every auxiliary loss the model reports, for mtp if it has draft heads, for jepa if a JEPA head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.slice_targets is not None and self.slice_targets < 1) or self.z_loss < 0:
            raise ConfigError(
                f"next_token has slice_targets {self.slice_targets} and z_loss {self.z_loss}; "
                f"use 1 or more targets a slice (2048 is usual) and a z_loss of 0 or more (1e-4 is usual)."
            )

    def build(self, helpers: Mapping[str, LM] = UNAIDED) -> "NextToken":
        return NextToken(self)


class NextToken:
    """The objective of pretraining, and the arithmetic of fine-tuning."""

    def __init__(self, config: NextTokenConfig):
        self.config = config

    def counts(self, batch: TokenBatch) -> Counts:
        targets = batch.n_targets
        if targets == 0:
            raise TrainingError(
                f"A batch of {len(batch)} rows has no target that counts, so there is nothing to learn from it. "
                f"Raise --batch-tokens, or look at the data's loss mask."
            )
        tokens = batch.tokens.numel() if batch.valid is None else int(batch.valid.sum())
        spelled = 0 if batch.row_bytes is None else batch.n_bytes
        return {"targets": targets, "tokens": tokens, "bytes": spelled} | count_ahead(batch)

    def __call__(self, model: LM, batch: TokenBatch, counts: Counts) -> Loss:
        output = model(batch.tokens, options=batch.options())
        read = _Reading(model, output.hidden, self.config)
        entropy = read.entropy(model.logits, batch.targets, batch.loss_mask, counts["targets"], self.config.z_loss)
        total, terms = entropy.total, {"cross_entropy": entropy.nats, "z": entropy.z}
        added, reported = self.auxiliary(model, output, batch, counts)
        return Loss(total + added, terms | reported)

    def auxiliary(
        self, model: LM, output: LMOutput, batch: TokenBatch, counts: Divisors
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """What organs and heads add to the total, and their unweighted sums by name."""
        added, terms = weighed(output.aux, batch, self.config.auxiliary, counts)
        if model.drafts is not None:
            read = _Reading(model, output.hidden, self.config)
            share = _weight(self.config.auxiliary, "mtp") / len(model.drafts)
            for k in range(1, len(model.drafts) + 1):
                entropy = read.draft(k, batch, counted_ahead(counts, "targets", k))
                added, terms[f"mtp.{k}"] = added + share * entropy.total, entropy.nats
        if model.latents is not None:
            distance = model.latents.ahead
            guessed, deviation = jepa_sums(model.latents, output.hidden, batch)
            weight = _weight(self.config.auxiliary, "jepa") / counted_ahead(counts, "tokens", distance)
            added = added + (guessed * weight).sum()
            terms |= {f"jepa.{distance}": guessed.detach().sum(), "jepa.std": deviation}
        return added, terms

    def means(self, sums: Mapping[str, float], counts: Counts) -> dict[str, float]:
        nats = sums["cross_entropy"]
        means = {"loss": nats / counts["targets"], "z": sums["z"] / counts["targets"]}
        if counts["bytes"]:
            means["bits_per_byte"] = nats / math.log(2) / counts["bytes"]
        others = [name for name in sums if name not in ("cross_entropy", "z")]
        return means | {name: sums[name] / _divisor(name, counts) for name in others}


def weighed(
    aux: Mapping[str, Tensor], batch: TokenBatch, weights: Sequence[AuxiliaryWeight], counts: Divisors
) -> tuple[Tensor | float, dict[str, Tensor]]:
    """What the model's auxiliary losses add to the total, and their sums over tokens by name."""
    tokens = (torch.ones_like(batch.tokens) if batch.valid is None else batch.valid).sum(1)  # (B,)
    sums = {name: value.float() * tokens for name, value in aux.items()}
    added = sum((each * (_weight(weights, name) / counts["tokens"])).sum() for name, each in sums.items())
    return added, {name: each.detach().sum() for name, each in sums.items()}


def _weight(weights: Sequence[AuxiliaryWeight], name: str) -> float:
    for entry in weights:
        if entry.name == name:
            return entry.weight
    raise ConfigError(
        f"The model reports the auxiliary loss {name!r}, for which the objective has no weight. "
        f"Add AuxiliaryWeight(name={name!r}, weight=...) to objective.auxiliary; 0 only watches it."
    )


@dataclass(frozen=True)
class _Reading:
    """What tokens are read off."""

    model: LM
    hidden: Tensor
    """(B, T, D)"""
    config: NextTokenConfig

    def draft(self, k: int, batch: TokenBatch, count: int | Tensor) -> CrossEntropy:
        """Cross entropy of draft head k, 1 the nearest, against the targets k places ahead."""
        assert self.model.drafts is not None, "only a model with draft heads comes here"
        head, mask = self.model.drafts[k - 1], ahead(batch.loss_mask, k) & same_document(batch, k)
        return self.entropy(lambda hidden: self.model.logits(head(hidden)), ahead(batch.targets, k), mask, count, 0.0)

    def entropy(self, head: Head, targets: Tensor, mask: Tensor, count: int | Tensor, z_loss: float) -> CrossEntropy:
        """Cross entropy of `head` against targets (B, T) where mask (B, T); count: one, or each row's (B,), and then
        the sums are divided by it too."""
        if isinstance(count, Tensor):
            mask, count = mask / count[:, None], 1
        hidden, targets, mask = self.hidden.flatten(0, 1), targets.flatten(), mask.flatten()
        if not mask.is_cuda and not bool(mask.all()):  # on a GPU the host would have to wait for the count
            counted = mask.nonzero()[:, 0] if bool(mask.any()) else torch.zeros(1, dtype=torch.long, device=mask.device)
            hidden, targets, mask = hidden[counted], targets[counted], mask[counted]  # one at least reaches all weights
        return sliced_cross_entropy(
            head,
            [p for p in cast(nn.Module, self.model).parameters() if p.requires_grad],
            hidden,
            targets,
            mask,
            count=count,
            z_loss=z_loss,
            slice_targets=self.config.slice_targets or SLICE_TARGETS.get(hidden.device.type, 2048),
        )


def _divisor(name: str, counts: Counts) -> int:
    """What the sum called `name` is divided by: pairs so many places apart for a head's, tokens for all others."""
    kind, _, distance = name.partition(".")
    if kind not in ("mtp", "jepa") or not distance.isdigit():
        return counts["tokens"]
    return counted_ahead(counts, "targets" if kind == "mtp" else "tokens", int(distance))
