from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from positronic.kernels import registry
from positronic.kernels.grouped import grouped_product
from positronic.kernels.registry import forms_of

SIZES = [(5, 0, 11, 1), (0, 0, 7, 0), (3, 3, 3, 3), (17,)]
K, N = 24, 16


def arguments(sizes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(sizes))
    x = torch.randn(sum(sizes), K, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(len(sizes), N, K, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return x, weight, torch.tensor(sizes).cumsum(0).int()


def by_row(x: Tensor, weight: Tensor, sizes: tuple[int, ...]) -> Tensor:
    own = weight[torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))]  # (M, N, K)
    return (own * x[:, None]).sum(-1)


def learned(y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(y.dtype)
    return torch.autograd.grad(y, (x, weight), dy)


@pytest.mark.parametrize("sizes", SIZES)
def test_every_row_meets_the_matrix_of_its_run_there_and_back(sizes):
    x, weight, ends = arguments(sizes)
    y, expected = grouped_product(x, weight, ends), by_row(x, weight, sizes)
    assert (y - expected).abs().max() < 1e-12
    for a, b in zip(learned(y, x, weight), learned(expected, x, weight), strict=True):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("sizes", SIZES)
def test_pytorchs_own_grouped_product_is_the_definition(sizes):
    """On the CPU it takes float32; the same calls serve CUDA."""
    x, weight, ends = arguments(sizes, torch.float32)
    dy = torch.randn(len(x), N, generator=torch.Generator().manual_seed(1))
    calls = [("grouped_product", (x, weight)), ("grouped_product", (dy, weight.mT)), ("grouped_outer", (dy, x))]
    for kernel, given in calls:
        own, definition = (form.run for form in forms_of(kernel))
        with torch.no_grad():
            assert torch.allclose(own(*given, ends), definition(*given, ends), atol=1e-5), kernel


def test_it_runs_in_the_precision_of_autocast_and_keeps_gradients_in_float32():
    x, weight, ends = arguments(SIZES[0], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = grouped_product(x, weight, ends)
    assert y.dtype is torch.bfloat16
    assert (y - by_row(x, weight, SIZES[0])).abs().max() < 0.1
    assert {g.dtype for g in learned(y, x, weight)} == {torch.float32}


def test_it_is_one_operation_of_a_graph():
    x, weight, ends = arguments(SIZES[0])
    compiled = torch.compile(grouped_product, fullgraph=True, backend="aot_eager")
    y = compiled(x, weight, ends)
    assert torch.equal(y, grouped_product(x, weight, ends))
    for a, b in zip(learned(y, x, weight), learned(grouped_product(x, weight, ends), x, weight), strict=True):
        assert torch.equal(a, b)


def test_its_operations_are_counted_where_no_number_is():
    x, weight, ends = (part.detach().to("meta") for part in arguments(SIZES[0]))
    with FlopCounterMode(display=False) as counter:
        assert grouped_product(x, weight, ends).shape == (17, N)
    assert counter.get_total_flops() == 2 * 17 * K * N


def test_what_can_do_without_waiting_takes_bfloat16_of_aligned_widths_on_cuda():
    for kernel in ("grouped_product", "grouped_outer"):
        first = forms_of(kernel)[0]
        assert first.label == "torch (unwaited)"
        assert first.devices == ("cuda",)
        assert first.dtypes == (torch.bfloat16,)
    refuses = forms_of("grouped_product")[0].refuses
    assert refuses(torch.empty(3, 24), torch.empty(2, 16, 24)) is None
    assert "multiples of 8" in refuses(torch.empty(3, 12), torch.empty(2, 16, 12))
    assert "multiples of 8" in forms_of("grouped_outer")[0].refuses(torch.empty(3, 16), torch.empty(3, 12))


@pytest.mark.parametrize("sizes", SIZES)
def test_what_a_machine_prefers_serves_the_way_back_too(sizes, monkeypatch):
    x, weight, ends = arguments(sizes, torch.float32)
    expected = learned(grouped_product(x, weight, ends), x, weight)
    for kernel in ("grouped_product", "grouped_outer"):
        own, _ = forms_of(kernel)
        monkeypatch.setitem(registry._FORMS, kernel, (replace(own, devices=(), dtypes=()),))
    for a, b in zip(learned(grouped_product(x, weight, ends), x, weight), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
