"""A known model, GPT-2 or Llama, as a checkpoint of ours: from the folder that Transformers saved it to.

    config.json                       model_type gpt2 or llama; every setting is honoured or refused
    model.safetensors                 or shards and their index; never a pickle
    tokenizer.json                    byte-level BPE (`text.foreign`)

For ids of the original vocabulary the logits are the original's. No token hides what stands before it (`boundary_id` is
None): what follows an end-of-text token sees what stood before, as in the original.

Our control tokens come behind the original ids, and every row that is added, of the embedding and of a head's own
matrix, is the mean of the original rows. A new token's logit is then the mean of all logits: greedy text never moves,
and as the exponential of a mean is at most the mean of the exponentials, n new tokens beside W take at most n / (W + n)
of the probability. Rows of zeros would take nearly all of it where logits are far below 0, as GPT-2's are.
Source   the mean: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from positronic.checkpoint.folder import save, vacant
from positronic.checkpoint.foreign import Architecture, ForeignWeights, Part, Settings
from positronic.checkpoint.form import MODEL_TYPE
from positronic.checkpoint.gpt2 import GPT2
from positronic.checkpoint.llama import LLAMA
from positronic.checkpoint.open_checkpoint import CONFIG
from positronic.checkpoint.reading import parse_json, read_json_bytes
from positronic.errors import CheckpointError
from positronic.lm import LM
from positronic.models import build
from positronic.text import read_foreign

__all__ = ["Converted", "convert"]

KNOWN = {"gpt2": GPT2, "llama": LLAMA}
TOKENIZER = "tokenizer.json"
BY_TOKEN = ("embed.weight", "unembed.weight")
"""Matrices with a row a token."""


@dataclass(frozen=True)
class Converted:
    """What was written."""

    folder: Path
    model_type: str
    """What the model is to Transformers."""
    parameters: int
    vocab_size: int
    """Entries, those that were added included."""
    added: int
    """Control tokens that the vocabulary lacked, the last of it."""
    dtype: str
    """Of the stored parameters: the original's."""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder)}


def convert(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], *, clock: Callable[[], float] | None = None
) -> Converted:
    """Write the checkpoint `out` of the model that Transformers saved to `folder`; clock: as for `save`.

    A folder, setting, tensor or vocabulary that is not understood in full raises `CheckpointError` or
    `TokenizerError`, and nothing is written.
    """
    source, target = Path(folder), vacant(out, "checkpoint")
    model_type, architecture, settings = _described(source)
    end = settings.end()
    config = architecture.config(settings)
    tokenizer = read_foreign(_tokenizer_file(source), end, config.vocab_size)
    weights, parts = ForeignWeights(source, architecture), list(architecture.parts(config))
    dtype = weights.check(parts)
    model = build(config.replace(vocab_size=tokenizer.vocab_size), loaded=[part.name for part in parts])
    _fill(model, parts, weights)
    save(target, model, tokenizer, dtype=dtype, clock=clock)
    return Converted(
        target,
        model_type,
        sum(p.numel() for p in cast(nn.Module, model).parameters()),
        tokenizer.vocab_size,
        tokenizer.vocab_size - config.vocab_size,
        str(dtype).removeprefix("torch."),
    )


def _described(source: Path) -> tuple[str, Architecture, Settings]:
    if not source.is_dir():
        raise CheckpointError(f"There is no folder {source}. Give one that a model was saved to by Transformers.")
    where = source / CONFIG
    data = parse_json(read_json_bytes(where), where)
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind == MODEL_TYPE:
        raise CheckpointError(f"{source} is a model of ours already. Use it as it is, or positronic.checkpoint.adopt.")
    if kind not in KNOWN:
        raise CheckpointError(
            f"{where} has model_type {str(kind)[:80]!r}, and models of type {' and '.join(KNOWN)} are converted. Use "
            f"it in Transformers."
        )
    return kind, KNOWN[kind], Settings(data, str(where))


def _tokenizer_file(source: Path) -> Path:
    if not (source / TOKENIZER).is_file():
        raise CheckpointError(
            f"{source} has no {TOKENIZER}. Make it of what is there: in Transformers, "
            f"AutoTokenizer.from_pretrained({str(source)!r}).save_pretrained({str(source)!r})."
        )
    return source / TOKENIZER


@torch.no_grad()
def _fill(model: LM, parts: list[Part], weights: ForeignWeights) -> None:
    targets = cast(nn.Module, model).state_dict(keep_vars=True)
    with weights.reading() as tensor:
        for part in parts:
            values, target = part.make([tensor(name) for name, _ in part.sources]), targets[part.name]
            target.copy_(_grown(values.float(), len(target)) if part.name in BY_TOKEN else values)


def _grown(rows: Tensor, n: int) -> Tensor:
    """(W, D) -> (n, D): behind them, their mean."""
    return torch.cat([rows, rows.mean(0).expand(n - len(rows), -1)])
