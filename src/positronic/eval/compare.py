"""Versions of one model on the same documents: what each makes of them, and how far it moves the logits.

A version is the model under a probe (`observe.ablate` silences organs by one). All are read batch by batch beside the
model itself, so that no logits are kept for longer than a batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from positronic.data import Document
from positronic.eval.bits_per_byte import SLICE, Encoder, Score, Tally, Window, batches, cut, nats_of, read, scoring
from positronic.lm import LM
from positronic.probe import Probe

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """One version beside the model."""

    scores: list[Score]
    """By document."""
    largest_change: float
    """Of a logit, absolute, over all scored tokens."""
    flips: int
    """Scored tokens at which another token is the most likely."""


class _Version:
    def __init__(self, texts: Sequence[str]):
        self.tally, self.largest_change, self.flips = Tally(texts), 0.0, 0

    def add(self, batch: Sequence[Window], logits: Tensor, whole: Tensor, wanted: Tensor) -> None:
        """logits, whole (n, W): of this version and of the model."""
        self.tally.add(batch, [nats_of(logits, wanted)])
        self.largest_change = max(self.largest_change, float((logits - whole).abs().max()))
        self.flips += int((logits.argmax(-1) != whole.argmax(-1)).sum())


def compare(
    model: LM,
    tokenizer: Encoder,
    documents: Iterable[Document],
    probes: Mapping[str, Probe],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = SLICE,
) -> tuple[list[Score], dict[str, Comparison]]:
    """The model's score of each document that holds text, and each version of it by name; as `document_scores`."""
    texts = [document.text for document in documents if document.text]
    windows, tally = cut(model, tokenizer, texts, context, stride), Tally(texts)
    versions = {name: _Version(texts) for name in probes}
    with scoring(model) as device:
        for batch in batches(windows, batch_tokens):
            hidden, wanted = read(model, batch, device)
            whole = model.logits(hidden).float()  # (n, W)
            tally.add(batch, [nats_of(whole, wanted)])
            for name, probe in probes.items():
                other, _ = read(model, batch, device, probe)
                versions[name].add(batch, model.logits(other).float(), whole, wanted)
    return tally.scores(), {
        name: Comparison(version.tally.scores(), version.largest_change, version.flips)
        for name, version in versions.items()
    }
