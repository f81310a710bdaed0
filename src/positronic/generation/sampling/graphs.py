"""CUDA graphs of a function that reads and writes tensors in place."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["capture"]

WARM_UP = 2
"""Runs before the capture, in which kernels are compiled and workspaces made."""


def capture(once: Callable[[], Tensor], pool: object) -> tuple[Callable[[], None], Tensor]:
    """What replays `once`, which has then run some times already, and the tensor that its result lies in."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with _nothing_freed(), torch.cuda.graph(graph, pool=pool):  # type: ignore[arg-type]
        result = once()
    return graph.replay, result


@contextmanager
def _nothing_freed() -> Iterator[None]:
    """Without collections of garbage inside: a graph that is given back breaks the capture of another."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
