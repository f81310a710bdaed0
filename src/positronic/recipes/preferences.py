"""How a preference run is measured: pairs of answers that it does not learn from."""

import math
from collections import Counter
from collections.abc import Callable

import torch

from positronic.data import Mixture
from positronic.eval.bits_per_byte import scoring
from positronic.lm import LM
from positronic.text import Tokenizer
from positronic.train import Objective, chosen

__all__ = ["preferred"]

ROWS, AT_ONCE = 64, 8
"""Rows of pairs that a validation reads, at most, and how many a forward pass."""


def preferred(objective: Objective, pairs: Mixture, tokenizer: Tokenizer) -> Callable[[LM], dict[str, float]]:
    """Measures what `objective` means of its first rows, and the chosen answers' bits per byte from its term `nll`."""
    batch = pairs.next(min(ROWS, sum(rows.n_rows for rows in pairs.sources)))
    spelled = torch.tensor([len(token) for token in tokenizer.token_bytes])
    size = int(spelled[batch.targets[chosen(batch)]].sum())
    counts = objective.counts(batch)

    def measure(model: LM) -> dict[str, float]:
        sums: Counter[str] = Counter()
        with scoring(model) as device:
            for at in range(0, len(batch), AT_ONCE):
                terms = objective(model, batch.rows(slice(at, at + AT_ONCE)).to(device), counts).terms
                sums.update({name: value.item() for name, value in terms.items()})
        return objective.means(sums, counts) | {"bits_per_byte": sums["nll"] / math.log(2) / size if size else math.nan}

    return measure
