"""A model that is measured, the prompt it has read, and how it is to be run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from positronic.generation import GREEDY, Engine, Free, Row, Stop, Writer, prefill
from positronic.lm import LM
from positronic.models import build, preset
from positronic.state import DecodeState

__all__ = ["PROMPT", "Compile", "Setting", "Subject", "engine_of"]

PROMPT = 128
"""Tokens that every row has read, where nothing else is said."""
SPECIAL = 128
"""Ids at the end of a vocabulary that no prompt holds: control tokens."""


Compile = Literal["auto", "on", "off"]


def engine_of(model: LM, max_rows: int = 1, *, prefix_bytes: int = 0, compile: Compile = "auto") -> Engine:
    """The engine as it is measured, everywhere in this benchmark."""
    return Engine(model, max_rows=max_rows, prefix_bytes=prefix_bytes, compile=compile)


@dataclass(frozen=True)
class Setting:
    """How everything is run that is measured together."""

    device: torch.device
    dtype: torch.dtype
    threads: int
    tokens: int
    """That one row says."""
    rounds: int
    compiled: bool = False
    """Whether the engine is measured compiled as well."""

    @property
    def engines(self) -> dict[str, Compile]:
        """How the engine of one row is measured."""
        return {"engine": "auto", "engine, compiled": "on"} if self.compiled else {"engine": "auto"}

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def settle(self) -> None:
        """Until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object]) -> float:
        """What a run takes, the device's work included."""
        self.settle()
        start = time.perf_counter()
        run()
        self.settle()
        return time.perf_counter() - start


class Subject:
    """The model of a preset, random weights, and prompts for it, random tokens."""

    def __init__(self, name: str, setting: Setting, **changes: Any):
        self.name, self.setting = name, setting
        self.model: LM = build(preset(name).replace(**changes)).to(setting.device, setting.dtype).eval()  # type: ignore[attr-defined]
        self._draw = torch.Generator().manual_seed(0)
        self.prompt = self.draw(PROMPT)

    @cached_property
    def read(self) -> tuple[DecodeState, Tensor]:
        """What stands before the last token of the prompt, and the last hidden vector."""
        return self.after(self.prompt)

    def draw(self, tokens: int) -> list[int]:
        """Random tokens."""
        return torch.randint(self.model.config.vocab_size - SPECIAL, (tokens,), generator=self._draw).tolist()

    def after(self, prompt: Sequence[int]) -> tuple[DecodeState, Tensor]:
        """What stands before the last token of a prompt, and the last hidden vector."""
        state, hidden = prefill(self.model, self.model.init_state(1), [prompt[:-1]])
        assert hidden is not None, "a prompt has tokens"
        return state, hidden

    def row(self, prompt: Sequence[int], tokens: int, hidden: Tensor | None = None) -> Row:
        """A row that will say so many tokens after the prompt, of which the last one is in no state yet."""
        stop = Stop(max_new_tokens=tokens)
        text = Writer(GREEDY, stop, Free(), prompt, len(prompt), self.model.config.max_positions)
        return Row(text, hidden=hidden)
