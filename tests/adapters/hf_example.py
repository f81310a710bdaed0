"""The models whose life in Transformers is tested: the control and every family, as small as they go, on bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from drafting import ids, run, small
from family_example import BYTES, EOT, FAMILIES
from torch import Tensor

from positronic.config import ModelConfig


@dataclass(frozen=True)
class Model:
    speaking: Callable[[], Any]
    """With every organ open, and texts that do not repeat themselves."""
    config: ModelConfig
    """What it is built from; a new model of it has all to learn."""


CONTROL = Model(lambda: small(boundary_id=EOT), small(boundary_id=EOT).config)
MODELS = {"control": CONTROL} | {
    name: Model(family.speaking, family.small(vocab_size=BYTES, boundary_id=EOT)) for name, family in FAMILIES.items()
}
PROMPT = [72, 101, 108, 108, 111]


def rows(batch: int, length: int, seed: int = 0) -> Tensor:
    """Tokens of bytes, none of them a control token."""
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def greedy(ours, prompt: Sequence[int], n: int) -> list[int]:
    """What our own decoder says."""
    return ids(run(ours, prompt, n))


def said(theirs, prompt: Sequence[int], n: int, **how: Any) -> list[int]:
    """What `generate` says to one row, greedily unless asked otherwise."""
    how = {"do_sample": False, "eos_token_id": None} | how
    return theirs.generate(torch.tensor([prompt]), max_new_tokens=n, **how)[0, len(prompt) :].tolist()
