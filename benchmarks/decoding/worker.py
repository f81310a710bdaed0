"""The decoding loop of commit 074ff9c in a process of its own: commands and answers are JSON, a line each.

It is run as a file, with that commit's package on the path and nothing of ours:

    {"do": "prepare", "preset": .., "device": .., "dtype": .., "threads": .., "prompt": [..]}    {"parameters": ..}
    {"do": "time", "tokens": ..}                  {"seconds": .., "said": [..]}
    {"do": "operations"}                          {"operations": ..} of one cached call of one token and the head

An answer to what failed is {"error": ..}.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from positronic.generation import GREEDY, Stop, decode, prefill
from positronic.models import build, preset


class Loop:
    """A model that has read a prompt."""

    def __init__(self, preset_name: str, device: str, dtype: str, threads: int, prompt: Sequence[int]):
        torch.set_num_threads(threads)
        self.device, self.prompt = torch.device(device), list(prompt)
        built: Any = build(preset(preset_name))
        self.model = built.to(self.device, getattr(torch, dtype)).eval()
        self.state, self.hidden = prefill(self.model, self.model.init_state(1), [self.prompt[:-1]])

    def time(self, tokens: int) -> dict[str, Any]:
        self._settle()
        start = time.perf_counter()
        stop = Stop(max_new_tokens=tokens)
        how: dict[str, Any] = {"sampler": GREEDY, "stop": stop, "history": self.prompt, "hidden": self.hidden}
        said = [one.token for one in decode(self.model, self.state, self.prompt[-1], **how)]
        self._settle()
        return {"seconds": time.perf_counter() - start, "said": said}

    @torch.no_grad()
    def operations(self) -> dict[str, Any]:
        token = torch.tensor([self.prompt[-1:]], device=self.device)
        state = self.model(token, self.state).state  # the one that may make room
        with Operations() as counted:
            self.model.logits(self.model(token, state).hidden[:, -1])
        return {"operations": counted.count}

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Operations(TorchDispatchMode):
    """Counts what reaches a kernel or a view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    loop: Loop | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "prepare":
                loop = None
                loop = Loop(*(command[name] for name in ("preset", "device", "dtype", "threads", "prompt")))
                answer: dict[str, Any] = {"parameters": sum(p.numel() for p in loop.model.parameters())}
            else:
                assert loop is not None, "prepare first"
                answer = loop.time(command["tokens"]) if command["do"] == "time" else loop.operations()
        except Exception as error:  # the other side says what is missing
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
