"""Training steps of one tree in a process of its own: commands and answers are JSON, a line each.

It is run as a file, with that tree's package on the path:

    {"do": "prepare", "preset": .., "rows": .., "context": .., "device": ..}    {"loss": ..} after two steps
    {"do": "time", "steps": ..}                                                 {"seconds": ..}

An answer to what failed is {"error": ..}.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from positronic.data import TokenBatch
from positronic.models import build, preset
from positronic.train import AdamWConfig, Backprop, NextTokenConfig, pick_device
from positronic.train.device import compile_blocks

DOCUMENT_TOKENS = 400
"""Mean length of a document."""
ADAMW = AdamWConfig()


class Training:
    """A model and one batch that it is trained on."""

    def __init__(self, preset_name: str, rows: int, context: int, where: str, optimizer: Any = ADAMW):
        torch.set_float32_matmul_precision("high")
        self.device = pick_device(where)
        config: Any = replace(preset(preset_name), boundary_id=0)
        model: Any = build(config, device=self.device.torch_device)
        if self._cuda:
            compile_blocks(model)
        model.train()
        objective = NextTokenConfig(z_loss=0.0).build()
        stepper = Backprop(optimizer.build(model), self.device)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, config.vocab_size, (rows, context + 1), generator=generator)
        tokens = tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < 1 / DOCUMENT_TOKENS, 0)
        x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        batch = TokenBatch(x, y, torch.ones_like(y, dtype=torch.bool)).to(self.device.torch_device)
        counts = objective.counts(batch)
        self.step: Callable[[], Any] = lambda: stepper(model, objective, [batch], counts, 1.0)()

    def prepare(self) -> dict[str, Any]:
        self.step()
        return {"loss": str(self.step())}

    def time(self, steps: int) -> dict[str, Any]:
        self._settle()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self._settle()
        return {"seconds": time.perf_counter() - start}

    @property
    def _cuda(self) -> bool:
        return self.device.torch_device.type == "cuda"

    def _settle(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    training: Training | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "prepare":
                training = Training(*(command[name] for name in ("preset", "rows", "context", "device")))
                answer = training.prepare()
            else:
                assert training is not None, "something was prepared"
                answer = training.time(command["steps"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
