"""How likely each of many texts is after its context: what minimal pairs, last words and multiple choice are scored by.

    ln p(continuation | context) = sum over its tokens of ln p(token | the context, the continuation's tokens before it)
    greedy                       = whether each of these tokens is the most likely one where it stands

Without a context a text begins as a document does, from a lone end-of-text token, which is not scored.

Border   White space at the end of the context belongs to the continuation. Then context and whole text are encoded, and
         what the whole has beyond as many tokens as the context has is scored after the context's, as lm-eval cuts.
         Where the continuation begins a word, as after a space, the whole begins with the context's tokens, for our
         vocabularies cut words before spaces. Elsewhere a token may reach over the border ("the" + "rapist"), and
         letters there are read twice or not at all. Such borders are called unstable and counted, not mended, so that
         numbers stay lm-eval's; at least one token is scored.
Cut      A text longer than the window, the model's context, loses its beginning; a continuation that is longer still is
         read whole.
Rows     A request whose tokens begin another's is read in the same row: single-letter choices cost one row a question.

Shapes   rows (B, T) padded at the end; logits (n, W) of the n scored tokens of a batch, at most SLICE at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from positronic.errors import ConfigError, DataError
from positronic.eval.bits_per_byte import SLICE, Encoder, batch_tokens_on, batches, hidden_of, nats_of, scoring
from positronic.lm import LM
from positronic.probe import Probe

__all__ = ["Likelihood", "Request", "context_of", "encode_pairs", "likelihoods"]


class Request(NamedTuple):
    """A continuation to score, in tokens."""

    context: Sequence[int]
    """One token at least."""
    continuation: Sequence[int]
    """One token at least."""
    stable: bool = True
    """Whether the context's tokens are the same with and without the continuation."""


class Likelihood(NamedTuple):
    """What a model makes of a continuation."""

    log_p: float
    """Natural logarithm of its probability."""
    greedy: bool
    """Whether greedy decoding would say it."""


def encode_pairs(tokenizer: Encoder, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """(context, continuation) in tokens; an empty context is a document's beginning."""
    moved = [_spaces_moved(context, continuation) for context, continuation in pairs]
    texts = dict.fromkeys(text for context, continuation in moved for text in (context, context + continuation))
    ids = dict(zip(texts, tokenizer.encode_batch(list(texts)), strict=True))
    return [_cut(tokenizer, ids[context], ids[context + continuation]) for context, continuation in moved]


def _spaces_moved(context: str, continuation: str) -> tuple[str, str]:
    if not continuation:
        raise DataError(f"There is nothing to score after {context[-40:]!r}; give continuations that are not empty.")
    end = len(context.rstrip())
    return context[:end], context[end:] + continuation


def _cut(tokenizer: Encoder, context: Sequence[int], whole: Sequence[int]) -> Request:
    scored = whole[min(len(context), len(whole) - 1) :]
    return Request([*tokenizer.lead, *context] or [tokenizer.begin_id], scored, stable=whole[: len(context)] == context)


@dataclass
class _Row:
    inputs: Sequence[int]
    served: list[tuple[int, int]] = field(default_factory=list)
    """The requests that are read here, and how many of the inputs are theirs."""


def likelihoods(
    model: LM,
    requests: Sequence[Request],
    *,
    context: int | None = None,
    batch_tokens: int | None = None,
    probe: Probe | None = None,
) -> list[Likelihood]:
    """The likelihood of each request, in order. The model sees `context` tokens at once, its own when not given."""
    found: dict[int, Likelihood] = {}
    rows = _rows(requests, context_of(model, context), model.config.max_positions)
    with scoring(model) as device:
        for batch in batches(rows, batch_tokens or batch_tokens_on(device)):
            hidden = hidden_of(model, [row.inputs for row in batch], device, probe)  # (B, T, D)
            served = [(at, end, index) for at, row in enumerate(batch) for index, end in row.served]
            spans = [range(end - len(requests[index].continuation), end) for _, end, index in served]
            places = [at * hidden.shape[1] + t for (at, _, _), span in zip(served, spans, strict=True) for t in span]
            wanted = torch.tensor([token for *_, index in served for token in requests[index].continuation])
            nats, best = _read(model, hidden.flatten(0, 1)[torch.tensor(places, device=device)], wanted.to(device))
            sizes = [len(span) for span in spans]
            for (*_, index), n, b in zip(served, nats.split(sizes), best.split(sizes), strict=True):
                found[index] = Likelihood(-math.fsum(n.tolist()), bool(b.all()))
    return [found[index] for index in range(len(requests))]


def context_of(model: LM, context: int | None) -> int:
    """Tokens that the model shall see at once: what was asked for, or what it was trained on."""
    held = model.config.max_positions
    if context is not None and not 1 <= context <= held:
        raise ConfigError(f"A context of {context} tokens does not fit this model; use 1 to {held}.")
    return context or model.config.context


def _rows(requests: Sequence[Request], window: int, held: int) -> list[_Row]:
    """Every request in a row; in descending order, what extends some tokens comes right before them."""
    longest = max((len(request.continuation) for request in requests), default=0)
    if longest > held:
        raise DataError(
            f"A continuation has {longest} tokens and the model holds {held}; score it as a text, with --data."
        )
    inputs = [
        [*request.context, *request.continuation][:-1][-max(window, len(request.continuation)) :]
        for request in requests
    ]
    rows: list[_Row] = []
    for index in sorted(range(len(requests)), key=inputs.__getitem__, reverse=True):
        own = inputs[index]
        if not rows or rows[-1].inputs[: len(own)] != own:
            rows.append(_Row(own))
        rows[-1].served.append((index, len(own)))
    return rows


def _read(model: LM, hidden: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """hidden (n, D), tokens (n,) -> -ln p of these, and whether each is the most likely one, (n,) on the host."""
    nats, best = [], []
    for h, w in zip(hidden.split(SLICE), wanted.split(SLICE), strict=True):
        logits = model.logits(h).float()
        nats.append(nats_of(logits, w))
        best.append(logits.argmax(-1) == w)
    return torch.cat(nats).cpu(), torch.cat(best).cpu()
