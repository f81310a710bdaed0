"""Forms asked for by name: what does not exist is refused, what cannot run here says so and is replaced."""

import pytest
import torch
from ring_example import RINGS, bank_of, field_of

from positronic.errors import ConfigError
from positronic.kernels import dispatch
from positronic.kernels.dispatch import asked_form, fused_runs
from positronic.kernels.kuramoto import integrate

MODULE = "positronic.kernels.kuramoto.triton"


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch._runs.cache_clear()
    yield
    dispatch._runs.cache_clear()


def test_a_form_that_does_not_exist_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("POSITRONIC_KERNELS", "fast")
    with pytest.raises(ConfigError, match=r"'fast'.*reference, fused"):
        integrate(*bank_of(), field_of(), RINGS, 4, 0.5)


@pytest.mark.parametrize("value", [None, ""])
def test_unset_and_empty_ask_for_nothing(value, monkeypatch):
    monkeypatch.delenv("POSITRONIC_KERNELS", raising=False)
    if value is not None:
        monkeypatch.setenv("POSITRONIC_KERNELS", value)
    assert asked_form() is None


def test_a_fused_form_that_cannot_run_says_so_once_and_changes_no_bit(monkeypatch, caplog):
    bank, field = bank_of(dtype=torch.float32), field_of(dtype=torch.float32)
    plain = integrate(*bank, field, RINGS, 4, 0.5)
    monkeypatch.setenv("POSITRONIC_KERNELS", "fused")
    assert all(torch.equal(integrate(*bank, field, RINGS, 4, 0.5), plain) for _ in range(2))
    assert [record.getMessage() for record in caplog.records] == [
        f"{MODULE} cannot run, for the tensors are on cpu, not on CUDA: the plain form runs instead"
    ]


@pytest.mark.parametrize(
    ("installed", "device", "dtype", "unfit", "why"),
    [
        (True, "cpu", torch.float32, None, "on cpu"),
        (False, "cuda", torch.float32, None, "Triton is not installed"),
        (True, "cuda", torch.float64, None, "float64"),
        (True, "cuda", torch.float32, "the sizes are odd", "odd"),
    ],
)
def test_each_reason_against_a_fused_form_is_told(installed, device, dtype, unfit, why, monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: name if installed else None)
    assert not fused_runs(MODULE, device, dtype, unfit)
    assert why in caplog.text
