"""Functions that are replayed say what they say when they are called."""

import pytest
import torch

from positronic.kernels.graphs import MOST_GRAPHS, USUAL, Recorded

PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


def folded(x: torch.Tensor, y: torch.Tensor | None) -> list[torch.Tensor]:
    z = x @ x.mT if y is None else x @ y
    return [z.softmax(-1), x.sum(0)]


@pytest.mark.parametrize("place", PLACES)
def test_each_call_has_its_own_arguments_and_results(place):
    made, draw = Recorded(folded), torch.Generator().manual_seed(0)
    given = [
        (torch.randn(n, n, generator=draw).to(place), torch.randn(n, n, generator=draw).to(place) if n % 2 else None)
        for _ in range(2 * USUAL + 2)
        for n in range(3, 4 + MOST_GRAPHS)  # one kind more than there are graphs
    ]
    found = [made(*each) for each in given]
    for each, results in zip(given, found, strict=True):
        for mine, wanted in zip(results, folded(*each), strict=True):
            assert mine.equal(wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_what_is_usual_is_called_no_more():
    calls = []
    made = Recorded(lambda x: (calls.append(1), [x + 1])[1])
    for _ in range(12):
        made(torch.ones(3, device="cuda"))
    few = len(calls)
    made(torch.ones(3, device="cuda"))
    assert len(calls) == few < 12
