"""The models whose life in Transformers is tested: the control and every family, as small as they go, on bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from drafting import ids, run, small
from family_example import BYTES, EOT, FAMILIES
from torch import Tensor

from positronic.config import ModelConfig
from positronic.nn.loop import LoopConfig


@dataclass(frozen=True)
class Model:
    speaking: Callable[[], Any]
    """With every organ open, and texts that do not repeat themselves."""
    config: ModelConfig
    """What it is built from; a new model of it has all to learn."""


CONTROL = Model(lambda: small(boundary_id=EOT), small(boundary_id=EOT).config)
STEADY: Mapping[str, dict[str, Any]] = {"chimera": {"looping": LoopConfig(mean=0)}}
"""Of a family whose depth is drawn in training: the usual one throughout, so that two ways to a loss have one value."""


def model_of(name: str) -> Model:
    family, steady = FAMILIES[name], STEADY.get(name, {})
    return Model(partial(family.speaking, **steady), family.small(vocab_size=BYTES, boundary_id=EOT, **steady))


MODELS = {"control": CONTROL} | {name: model_of(name) for name in FAMILIES}
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
