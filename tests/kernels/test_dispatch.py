"""Which form runs: a name that does not exist is refused, and Triton's kernels run only where they can."""

import pytest
import torch
from ring_example import RINGS, bank_of, field_of

from positronic.errors import ConfigError
from positronic.kernels import dispatch, kuramoto
from positronic.kernels.dispatch import fused_form, fused_takes, reference_only
from positronic.kernels.kuramoto import integrate

FITTING = (4, 8, 16)
HERE = "positronic.kernels.kuramoto.reference", "integrate_reference"


@pytest.fixture
def on_cuda(monkeypatch):
    """As if this torch were built for CUDA, and Triton could build."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(dispatch, "_builds", lambda: True)


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(dispatch, "INTERPRETED", True)


@pytest.fixture
def fused(monkeypatch, interpreted):
    """In place of the kernels, what says that it ran."""
    ran = torch.zeros(1)
    monkeypatch.setattr(kuramoto, "integrate_fused", lambda *given: ran)
    return ran


def phases(rings=FITTING, dtype=torch.float32):
    return integrate(*bank_of(n=sum(rings), dtype=dtype), field_of(n_rings=len(rings), dtype=dtype), rings, 4, 0.5)


def test_a_form_that_does_not_exist_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("POSITRONIC_KERNELS", "fast")
    with pytest.raises(ConfigError, match=r"'fast'.*reference, torch"):
        integrate(*bank_of(), field_of(), RINGS, 4, 0.5)


@pytest.mark.parametrize("value", [None, ""])
def test_unset_and_empty_ask_for_nothing(value, monkeypatch, interpreted):
    monkeypatch.delenv("POSITRONIC_KERNELS", raising=False)
    if value is not None:
        monkeypatch.setenv("POSITRONIC_KERNELS", value)
    assert not reference_only()
    assert fused_takes(torch.zeros(1))


def test_kernels_run_unasked_where_they_can_and_torch_asks_for_others(fused, monkeypatch):
    assert phases() is fused
    for asked in ("torch", "reference"):
        monkeypatch.setenv("POSITRONIC_KERNELS", asked)
        assert phases() is not fused


@pytest.mark.parametrize("rings", [(4, 8), (4, 8, 12), (8, 16, 32), tuple(4 << r for r in range(8))])
def test_rings_that_do_not_fit_run_as_ever(rings, fused):
    assert phases(rings) is not fused


def test_what_is_not_float32_runs_as_ever(fused):
    assert phases(dtype=torch.float64) is not fused


def test_on_the_cpu_nothing_is_fused(monkeypatch):
    monkeypatch.setattr(kuramoto, "integrate_fused", lambda *given: pytest.fail("it ran"))
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    assert not fused_takes(torch.zeros(1))
    phases()


def test_a_module_that_was_left_behind_is_no_form(on_cuda):
    assert fused_form(*HERE) is kuramoto.integrate_reference
    assert fused_form("positronic.kernels.kuramoto.mean_field.triton", "integrate_fused") is None


def test_without_cuda_a_module_is_not_even_imported(monkeypatch):
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert fused_form(*HERE) is None


@pytest.mark.parametrize("lacking", ["compiler", "headers"])
def test_where_triton_could_not_build_its_launchers_it_is_not_asked_to(lacking, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(
        dispatch, "which", lambda name: "/usr/bin/gcc" if lacking == "headers" and name == "gcc" else None
    )
    monkeypatch.setattr(dispatch.sysconfig, "get_path", lambda *_: str(tmp_path))
    if lacking == "compiler":
        (tmp_path / "Python.h").touch()
    assert fused_form(*HERE) is None
    assert "PyTorch's operations run in its place" in caplog.text
    monkeypatch.setenv("CC", "gcc")
    (tmp_path / "Python.h").touch()
    assert fused_form(*HERE) is not None


def test_a_compiler_meets_the_same_choice_whole(fused):
    bank, field = bank_of(n=sum(FITTING), dtype=torch.float32), field_of(n_rings=3, dtype=torch.float32)

    def run(theta):
        return integrate(theta, *bank[1:], field, FITTING, 4, 0.5)

    with torch.no_grad():
        assert torch.equal(torch.compile(run, fullgraph=True, backend="eager")(bank[0]), fused)
