"""Bits per byte: how many bits a model needs to send held-out text, the one score that compares across tokenizers.

    bits per byte = sum over tokens of -ln p(token | what came before it in its document) / ln 2 / bytes

Every token of every document is predicted once, the first from a lone end-of-text token, or from what its vocabulary
begins a text with; bytes are those of the text in UTF-8, whatever the tokenizer makes of them. A document longer than
the context is read in windows: the first scores all its tokens, each later one its last `stride`, so that a token sees
context - stride + 1 tokens at least.

Shapes   inputs, targets (B, T), padded at the end; nats (n,) of the n scored tokens of a batch, float32, summed by
         document in float64 by `math.fsum`, so that the order of summation cannot matter.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.data import Document
from positronic.errors import ConfigError, DataError
from positronic.lm import LM
from positronic.probe import Probe
from positronic.state import ForwardOptions, Loops

__all__ = [
    "SLICE",
    "Encoder",
    "Score",
    "Tally",
    "Window",
    "batch_tokens_on",
    "batches",
    "bits_per_byte",
    "cut",
    "document_scores",
    "hidden_of",
    "nats_of",
    "read",
    "scoring",
]

SLICE = 2048
"""Scored tokens whose logits exist at once."""
BATCH_TOKENS = {"cpu": 1024}
"""Tokens read at once where a cache is what counts; 16,384 on other devices."""


class Encoder(Protocol):
    """What scoring needs of a tokenizer."""

    @property
    def begin_id(self) -> int: ...
    @property
    def lead(self) -> tuple[int, ...]: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...


@dataclass(frozen=True)
class Score:
    """What a model makes of a text."""

    nats: float
    """Information of the text under the model."""
    tokens: int
    bytes: int
    """UTF-8 bytes of the text."""

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @staticmethod
    def total(scores: "Iterable[Score]") -> "Score":
        """The score of several texts taken together."""
        parts = list(scores)
        return Score(math.fsum(s.nats for s in parts), sum(s.tokens for s in parts), sum(s.bytes for s in parts))

    def to_json(self) -> dict[str, Any]:
        """The four numbers by name."""
        return {
            "bits_per_byte": self.bits_per_byte,
            "nats_per_token": self.nats_per_token,
            "bytes": self.bytes,
            "tokens": self.tokens,
        }


class Row(Protocol):
    """What is read in one row of a batch."""

    @property
    def inputs(self) -> Sequence[int]: ...


R = TypeVar("R", bound=Row)


class Window(NamedTuple):
    """Part of a document: inputs, the token after each, and how many of these, the last, are scored here."""

    document: int
    inputs: Sequence[int]
    targets: Sequence[int]
    n_scored: int


def bits_per_byte(
    model: LM,
    tokenizer: Encoder,
    documents: Iterable[Document],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int | None = None,
    probe: Probe | None = None,
    loops: Loops = None,
) -> Score:
    """Score every token of every document. `context` is the model's by default, `stride` half of it.

    batch_tokens: read at once, with what padding adds; what suits the device by default.
    probe watches or replaces at taps: `observe.ablate` makes one under which organs are silent.
    loops: how often a loop in the trunk is passed; None: as usual.
    """
    how: dict[str, Any] = {
        "context": context,
        "stride": stride,
        "batch_tokens": batch_tokens,
        "probe": probe,
        "loops": loops,
    }
    return Score.total(document_scores(model, tokenizer, documents, **how))


def document_scores(
    model: LM,
    tokenizer: Encoder,
    documents: Iterable[Document],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int | None = None,
    probe: Probe | None = None,
    loops: Loops = None,
) -> list[Score]:
    """The score of each document that holds text, in order, with the settings of `bits_per_byte`."""
    model.config.check_loops(loops)
    texts = [document.text for document in documents if document.text]
    windows, tally = cut(model, tokenizer, texts, context, stride), Tally(texts)
    with scoring(model) as device:
        for batch in batches(windows, batch_tokens or batch_tokens_on(device)):
            hidden, wanted = read(model, batch, device, probe, loops)
            pieces = zip(hidden.split(SLICE), wanted.split(SLICE), strict=True)
            tally.add(batch, [nats_of(model.logits(h).float(), w) for h, w in pieces])
    return tally.scores()


def nats_of(logits: Tensor, wanted: Tensor) -> Tensor:
    """(n, W) and the tokens that came (n,) -> -ln p of these (n,)."""
    return F.cross_entropy(logits, wanted, reduction="none")


class Tally:
    """-ln p of every token, by document."""

    def __init__(self, texts: Sequence[str]):
        self.sizes = [len(text.encode()) for text in texts]
        self.nats: list[list[float]] = [[] for _ in texts]

    def add(self, batch: Sequence[Window], pieces: Sequence[Tensor]) -> None:
        """The scored tokens of a batch, window by window, in pieces of any length."""
        split = torch.cat(list(pieces)).cpu().split([window.n_scored for window in batch])
        for window, nats in zip(batch, split, strict=True):
            self.nats[window.document] += nats.tolist()

    def scores(self) -> list[Score]:
        parts = zip(self.nats, self.sizes, strict=True)
        return [Score(math.fsum(nats), len(nats), size) for nats, size in parts]


def cut(
    model: LM, tokenizer: Encoder, texts: Sequence[str], context: int | None = None, stride: int | None = None
) -> list[Window]:
    """All texts in windows that fit the model."""
    context = context or model.config.context
    stride = stride or max(1, context // 2)
    if not 1 <= stride <= context <= model.config.max_positions:
        raise ConfigError(
            f"Windows of {context} tokens with a stride of {stride} do not fit a model of {model.config.max_positions} "
            f"positions; use 1 <= stride <= context <= {model.config.max_positions}."
        )
    windows = [
        window
        for document, ids in enumerate(tokenizer.encode_batch(texts))
        for window in _windows(document, [tokenizer.begin_id, *ids], context, stride)
    ]
    if not windows:
        raise DataError("The documents to score hold no text. Give text that is not empty.")
    return windows


def _windows(document: int, ids: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """Windows over `ids`, of which the first token is given and all others are scored once."""
    n, done = len(ids) - 1, 0
    while done < n:
        end = min(n, context if done == 0 else done + stride)
        start = max(0, end - context)
        yield Window(document, ids[start:end], ids[start + 1 : end + 1], end - done)
        done = end


def batch_tokens_on(device: torch.device) -> int:
    """Tokens in a batch that a device reads fastest."""
    return BATCH_TOKENS.get(device.type, 16_384)


def batches(rows: Iterable[R], batch_tokens: int) -> Iterator[list[R]]:
    """Rows of like length together: longest first, so that padding is short and memory shows its need at once."""
    ordered = sorted(rows, key=lambda row: -len(row.inputs))
    start = 0
    while start < len(ordered):
        n_rows = max(1, batch_tokens // len(ordered[start].inputs))
        yield ordered[start : start + n_rows]
        start += n_rows


def read(
    model: LM, batch: Sequence[Window], device: torch.device, probe: Probe | None = None, loops: Loops = None
) -> tuple[Tensor, Tensor]:
    """What every scored token of a batch is read off, (n, D), and the token itself, (n,); window by window."""
    hidden = hidden_of(model, [window.inputs for window in batch], device, probe, loops)
    scored = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    for row, window in enumerate(batch):
        scored[row, len(window.inputs) - window.n_scored : len(window.inputs)] = True
    places = scored.flatten().nonzero()[:, 0].to(device)
    wanted = torch.tensor([token for window in batch for token in window.targets[-window.n_scored :]], device=device)
    return hidden.flatten(0, 1)[places], wanted


def hidden_of(
    model: LM, rows: Sequence[Sequence[int]], device: torch.device, probe: Probe | None = None, loops: Loops = None
) -> Tensor:
    """(B, T, D) of rows of at most T tokens, padded at the end."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    valid = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    tokens = tokens.to(device)
    options = ForwardOptions(valid=None if bool(valid.all()) else valid.to(device), probe=probe, loops=loops)
    return model(tokens, options=options).hidden


@contextmanager
def scoring(model: LM) -> Iterator[torch.device]:
    """The model in eval mode and without gradient; its device."""
    module = cast(nn.Module, model)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield next(module.parameters()).device
    finally:
        module.train(was_training)
