"""Direct preference optimisation: of two answers to one prompt, the chosen one is to gain on the rejected one.

    m = beta ((log p(y_w) - log r(y_w)) - (log p(y_l) - log r(y_l)))       p the model, r the reference, both summed
    L = mean over pairs of -(1 - e) log sigmoid(m) - e log sigmoid(-m)  +  nll * mean over tokens of -log p(y_w)

A pair is two neighbouring documents of a row (`data.preferences`), the chosen one first; only the answers count.
The reference is the model as it was before: while both are the same, m is 0 and the pair costs log 2 exactly. The
last term keeps the likelihood of both answers from falling together. A loop in the trunk, whose depth is else drawn in
training, is passed as often as usual by both, so that m tells answers apart and not depths.

Shapes   tokens (B, T); log-probabilities by pair (B, P, 2), P pairs a row at most.
Cost     a second forward pass, the reference's; logits of the answers alone.
Source   Rafailov et al. 2023, "Direct Preference Optimization", arXiv 2305.18290, eq. 7; smoothing e: Mitchell 2023,
         "A note on DPO with noisy preferences"; the likelihood term: Pang et al. 2024, arXiv 2404.19733, eq. 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.data import TokenBatch
from positronic.errors import ConfigError, TrainingError
from positronic.lm import LM
from positronic.nn.load_bias import LoadBias
from positronic.train.objectives.next_token import AuxiliaryWeight, NextTokenConfig, weighed
from positronic.train.objectives.objective import Counts, DataKind, Loss, Measure, ObjectiveConfig

__all__ = ["DPO", "DPOConfig", "chosen"]


@dataclass(frozen=True, kw_only=True)
class DPOConfig(ObjectiveConfig, kind="dpo"):
    reads: ClassVar[Mapping[DataKind, Measure]] = {"pairs": "preference"}
    rests: ClassVar[tuple[type[nn.Module], ...]] = (LoadBias,)

    beta: float = 0.1
    """How strongly the model is held to the reference: the margin is so much of the gain in nats."""
    label_smoothing: float = 0.0
    """Share of pairs that are taken to be the wrong way round."""
    length_normalised: bool = False
    """Whether an answer's log-probability is divided by its tokens."""
    nll: float = 0.05
    """Weight of the chosen answers' own likelihood."""
    auxiliary: tuple[AuxiliaryWeight, ...] = NextTokenConfig().auxiliary
    """A weight for every auxiliary loss the model reports."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0 or not 0 <= self.label_smoothing < 0.5 or self.nll < 0:
            raise ConfigError(
                f"dpo has beta {self.beta}, label_smoothing {self.label_smoothing} and nll {self.nll}; use a positive "
                f"beta (0.1 is usual), a smoothing from 0 to below 0.5, and an nll of 0 or more (0.05)."
            )

    @property
    def helpers(self) -> Mapping[str, str | None]:
        """The reference is the model as it was before."""
        return {"reference": None}

    def build(self, helpers: Mapping[str, LM]) -> "DPO":
        return DPO(self, helpers["reference"])


class DPO:
    """Preference against a frozen reference; `loss` is the pairs' alone, log 2 at the start."""

    def __init__(self, config: DPOConfig, reference: LM):
        self.config, self.reference = config, reference

    def counts(self, batch: TokenBatch) -> Counts:
        chosen, rejected = _by_pair(batch, batch.loss_mask).unbind(-1)
        pairs = int(((chosen > 0) & (rejected > 0)).sum())
        if pairs == 0:
            raise TrainingError(
                f"A batch of {len(batch)} rows holds no pair of answers, so there is nothing to learn from it. "
                f"Shorten the answers, or raise --seq-len so that a pair fits into a row."
            )
        tokens = batch.tokens.numel() if batch.valid is None else int(batch.valid.sum())
        return {
            "pairs": pairs,
            "chosen": int(chosen.sum()),
            "rejected": int(rejected.sum()),
            "targets": batch.n_targets,
            "tokens": tokens,
            "bytes": 0 if batch.row_bytes is None else batch.n_bytes,
        }

    def __call__(self, model: LM, batch: TokenBatch, counts: Counts) -> Loss:
        with torch.no_grad():
            before, _ = _answers(self.reference, batch)
        after, aux = _answers(model, batch)
        sizes = _by_pair(batch, batch.loss_mask)
        present = (sizes > 0).all(-1)
        gain = (after - before) / sizes.clamp(min=1) if self.config.length_normalised else after - before
        margin = self.config.beta * (gain[..., 0] - gain[..., 1])  # (B, P)
        e = self.config.label_smoothing
        cost = -(1 - e) * F.logsigmoid(margin) - e * F.logsigmoid(-margin)
        preference, nll = (cost * present).sum(), -after[..., 0].sum()
        total = preference / counts["pairs"] + self.config.nll * nll / counts["chosen"]
        added, terms = weighed(aux, batch, self.config.auxiliary, counts)
        gains = (after - before).detach()
        return Loss(
            total + added,
            {
                "preference": preference.detach(),
                "accuracy": ((margin > 0) & present).sum(),
                "margin": (margin.detach() * present).sum(),
                "chosen": gains[..., 0].sum(),
                "rejected": gains[..., 1].sum(),
                "nll": nll.detach(),
                **terms,
            },
        )

    def means(self, sums: Mapping[str, float], counts: Counts) -> dict[str, float]:
        """`loss` a pair; `accuracy` the share of pairs won; `chosen` and `rejected` nats gained a token."""
        by = {"accuracy": "pairs", "margin": "pairs", "chosen": "chosen", "rejected": "rejected", "nll": "chosen"}
        others = {name: value / counts[by.get(name, "tokens")] for name, value in sums.items() if name != "preference"}
        return {"loss": sums["preference"] / counts["pairs"]} | others


def _answers(model: LM, batch: TokenBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Summed log-probabilities (B, P, 2) of all answers, and the model's auxiliary losses."""
    output = model(batch.tokens, options=replace(batch.options(), loops=0))
    counted = batch.loss_mask
    logits = model.logits(output.hidden[counted]).float()
    log_p = -F.cross_entropy(logits, batch.targets[counted], reduction="none")
    return _by_pair(batch, torch.zeros_like(counted, dtype=torch.float32).masked_scatter(counted, log_p)), output.aux


def chosen(batch: TokenBatch) -> Tensor:
    """(B, T) bool: the targets that belong to chosen answers."""
    assert batch.segments is not None, "pairs lie side by side as documents"
    return batch.loss_mask & (batch.segments % 4 == 0)


def _by_pair(batch: TokenBatch, values: Tensor) -> Tensor:
    """(B, T) summed by answer: (B, P, 2). A pair is four documents: chosen, its end, rejected, its end."""
    values = values.float()
    documents = torch.zeros_like(batch.tokens) if batch.segments is None else batch.segments.clamp(min=0)
    pairs = int(documents.max()) // 4 + 1
    sums = values.new_zeros(len(values), 4 * pairs).scatter_add(1, documents, values)
    return sums.unflatten(1, (pairs, 2, 2)).sum(-1)
