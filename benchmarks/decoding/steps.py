"""What one step consists of: operations that PyTorch dispatches, or kernels that a GPU runs and the time between them.

    operations    aten operations, views included, of one cached call of one token and the head; eager, one row
    kernels       of 40 steps of the engine, one row, by the profiler's record of the device; copies apart
    busy          union of the intervals in which the device worked / wall time of the same steps, both profiled
    busy_free     the same union / wall time of as many steps without the profiler

The profiler slows the host, so that `busy` is the smaller of the two.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.decoding.against import Against
from benchmarks.decoding.llama import Llama
from benchmarks.decoding.subject import Subject, engine_of
from benchmarks.decoding.worker import Operations
from benchmarks.worker import WorkerError
from positronic.generation import Engine

__all__ = ["covered", "kernels", "llama_operations", "operations"]

STEPS = 40
COPIES = "Memcpy", "Memset"


@torch.no_grad()
def operations(subject: Subject, against: Against | None) -> dict[str, Any]:
    """Of our model now, and of the other commit's."""
    model, state = subject.model, subject.read[0]
    token = torch.tensor([subject.prompt[-1:]], device=state.position.device)
    after = model(token, state).state  # the call that may make room
    found: dict[str, Any] = {"now": _count(lambda: model.logits(model(token, after).hidden[:, -1]))}
    if against is not None:
        try:
            against.prepare(subject.name, subject.setting, subject.prompt)
            found["before"] = against.operations()
        except WorkerError as error:
            found["missing"] = str(error)
    return found


def llama_operations(llama: Llama, prompt: list[int]) -> dict[str, Any]:
    """Of the peer, argmax taken off."""
    cache = llama.read(prompt)
    token = torch.tensor([prompt[-1:]], device=llama.setting.device)
    llama.step(token, cache)
    return {"now": _count(lambda: llama.step(token, cache)) - 1}


def kernels(subject: Subject) -> dict[str, Any]:
    """A row of the engine under the profiler, and of the compiled one if that is asked for."""
    os.environ |= {"TEARDOWN_CUPTI": "0", "DISABLE_CUPTI_LAZY_REINIT": "1"}  # as PyTorch asks where there are graphs
    engines = subject.setting.engines.items()
    return {name: _profiled(subject, engine_of(subject.model, compile=how)) for name, how in engines}


def _profiled(subject: Subject, engine: Engine) -> dict[str, Any]:
    setting, (state, hidden) = subject.setting, subject.read
    engine.add(subject.row(subject.prompt, 3 * STEPS, hidden), state)

    def steps(n: int) -> None:
        for _ in range(n):
            engine.step()

    steps(8)  # graphs are made
    free = setting.seconds(lambda: steps(STEPS))
    with profile(activities=[ProfilerActivity.CUDA]):
        steps(2)  # the profiler begins to listen
        setting.settle()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        wall = setting.seconds(lambda: steps(STEPS))
    engine.clear()
    events = [event for event in recorded.events() or () if event.device_type == DeviceType.CUDA]
    if not events:
        return {"missing": "the profiler has recorded nothing of the device; look whether CUPTI may be used here"}
    work = covered((event.time_range.start, event.time_range.end) for event in events) / 1e6
    copies = sum(event.name.startswith(COPIES) for event in events)
    return {
        "kernels": (len(events) - copies) / STEPS,
        "copies": copies / STEPS,
        "step_s": free / STEPS,
        "step_profiled_s": wall / STEPS,
        "work_s": work / STEPS,
        "busy": work / wall,
        "busy_free": work / free,
    }


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _count(run: Callable[[], object]) -> int:
    with Operations() as counted:
        run()
    return counted.count
