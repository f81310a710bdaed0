"""CUDA graphs of functions of many small kernels, which the host then launches all at once."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Recorded", "capture"]

T = TypeVar("T")
WARM_UP = 2
"""Runs before the capture, in which kernels are compiled and workspaces made."""
USUAL = 2
"""Calls with arguments of the same shapes that are made as they stand, before these are worth a graph."""
MOST_GRAPHS = 4
"""Of one function; each holds its arguments, its results and all between."""


def capture(once: Callable[[], T], pool: object = None) -> tuple[Callable[[], None], T]:
    """What replays `once`, which has then run some times already, and the tensors that its result lies in."""
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


class Recorded:
    """A function of tensors and None that gives tensors, replayed on CUDA where its arguments come in usual shapes.

    The bits are the function's own. What it does must depend on shapes alone, never on what the host reads.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]]):
        self.function = function
        self._calls: Counter[object] = Counter()
        self._graphs: dict[object, Callable[[Sequence[Tensor | None]], list[Tensor]]] = {}

    def __call__(self, *given: Tensor | None) -> Sequence[Tensor]:
        held = next(x for x in given if x is not None)
        if held.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return self.function(*given)
        kind = tuple(None if x is None else (x.shape, x.dtype, x.device) for x in given)
        if kind not in self._graphs:
            self._calls[kind] += 1
            if self._calls[kind] <= USUAL or len(self._graphs) == MOST_GRAPHS:
                return self.function(*given)
            self._graphs[kind] = self._record(given)
        return self._graphs[kind](given)

    def _record(self, given: Sequence[Tensor | None]) -> Callable[[Sequence[Tensor | None]], list[Tensor]]:
        held = [None if x is None else x.clone(memory_format=torch.contiguous_format) for x in given]
        replay, results = capture(lambda: self.function(*held))

        def replayed(given: Sequence[Tensor | None]) -> list[Tensor]:
            for place, x in zip(held, given, strict=True):
                if place is not None and x is not None:
                    place.copy_(x)
            replay()
            return [result.clone() for result in results]

        return replayed


@contextmanager
def _nothing_freed() -> Iterator[None]:
    """Without collections of garbage inside: a graph that is given back breaks the capture of another."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
