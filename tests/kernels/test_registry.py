"""Which form of a kernel runs: the best that the user lets run, that is here and that takes the call."""

import ast
import json
import logging
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from forms_example import standing_in
from ring_example import RINGS, bank_of, field_of

import positronic
from positronic.cli import main
from positronic.errors import ConfigError
from positronic.kernels import kuramoto, registry
from positronic.kernels.kuramoto import integrate
from positronic.kernels.registry import HOMES, KINDS, UP_TO, Form, best_form, forms_of, register, survey, triton_form

FITTING = (4, 8, 16)
HERE = "positronic.kernels.kuramoto.reference", "integrate_reference"
PACKAGE = Path(positronic.__file__).parent


@pytest.fixture
def unasked(monkeypatch):
    monkeypatch.delenv("POSITRONIC_KERNELS", raising=False)


@pytest.fixture
def fused(monkeypatch, unasked):
    """What stands in for Triton's kernel of the rings, on every device."""
    return standing_in(monkeypatch, "kuramoto", "triton")


@pytest.fixture
def forms(monkeypatch, unasked):
    """A registry of its own, in which the rings have one form of each kind; each says its kind."""
    monkeypatch.setattr(registry, "_FORMS", {"store": ()})
    register("kuramoto", *(Form(kind=kind, run=lambda kind=kind: kind) for kind in UP_TO))


def phases(rings=FITTING, dtype=torch.float32):
    return integrate(*bank_of(n=sum(rings), dtype=dtype), field_of(n_rings=len(rings), dtype=dtype), rings, 4, 0.5)


def ran(*more) -> str:
    return best_form("kuramoto", torch.zeros(1), *more)()


@pytest.mark.parametrize("kernel", HOMES)
def test_every_kernel_has_one_definition_which_is_tried_last_and_takes_everything(kernel):
    *others, last = forms_of(kernel)
    assert last.kind == "reference"
    assert last.takes_all
    assert last.run is not None
    assert "reference" not in [form.kind for form in others]
    assert len({form.label for form in forms_of(kernel)}) == len(others) + 1


def test_no_kernel_is_chosen_that_is_not_listed_and_none_is_listed_in_vain():
    asked = set()
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        named = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "best_form"]
        home = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        asked |= {(call.args[0].value, home) for call in named}
    assert asked == set(HOMES.items())


def test_forms_are_tried_from_the_compiled_to_the_definition(forms):
    assert [form.kind for form in forms_of("kuramoto")] == list(KINDS) == ["triton", "cpp", "torch", "reference"]
    assert ran() == "triton"


@pytest.mark.parametrize("asked", UP_TO)
def test_a_kind_that_is_asked_for_runs(asked, forms, monkeypatch):
    for words in (asked, f"kuramoto={asked}", f"store=reference, kuramoto={asked}", f"kuramoto={asked},torch"):
        monkeypatch.setenv("POSITRONIC_KERNELS", words)
        assert ran() == asked


def test_one_kernel_is_picked_and_the_others_are_not(forms, monkeypatch):
    monkeypatch.setenv("POSITRONIC_KERNELS", "store=reference")
    assert ran() == "triton"
    monkeypatch.setenv("POSITRONIC_KERNELS", "store=reference,torch")
    assert ran() == "torch"


@pytest.mark.parametrize(
    ("there", "asked", "runs"),
    [
        (("cpp", "torch"), "triton", "torch"),
        (("triton", "torch"), "cpp", "torch"),
        (("triton", "cpp"), "torch", "reference"),
        (("triton",), "reference", "reference"),
    ],
)
def test_a_kind_that_a_kernel_lacks_falls_to_the_best_below_it_and_never_beside(there, asked, runs, forms, monkeypatch):
    monkeypatch.setitem(registry._FORMS, "kuramoto", tuple(f for f in forms_of("kuramoto") if f.kind in (*there, runs)))
    monkeypatch.setenv("POSITRONIC_KERNELS", asked)
    assert ran() == runs


@pytest.mark.parametrize("words", ["fast", "torch,fast", "kuramoto=fast", "rings=torch", "=torch", "torch,"])
def test_a_word_that_names_nothing_is_refused_with_what_there_is(words, monkeypatch):
    monkeypatch.setenv("POSITRONIC_KERNELS", words)
    with pytest.raises(ConfigError, match=r"names no form.*reference, torch, triton, cpp.*kuramoto, colony"):
        integrate(*bank_of(), field_of(), RINGS, 4, 0.5)


@pytest.mark.parametrize("words", ["torch,reference", "store=torch,store=reference"])
def test_what_is_said_twice_is_refused(words, monkeypatch):
    monkeypatch.setenv("POSITRONIC_KERNELS", words)
    with pytest.raises(ConfigError, match="says twice"):
        phases()


@pytest.mark.parametrize("value", [None, ""])
def test_unset_and_empty_ask_for_nothing(value, monkeypatch, fused):
    if value is not None:
        monkeypatch.setenv("POSITRONIC_KERNELS", value)
    assert phases() is fused


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


def test_a_form_refuses_by_device_by_dtype_and_by_its_own_reason():
    def empty(x, more):
        return "takes no empty calls" if not more else None

    form = Form(kind="cpp", run=abs, takes="float32 on cpu", devices=("cpu",), dtypes=(torch.float32,), refuses=empty)
    assert form.refusal(torch.zeros(1, device="meta"), 1) == "takes float32 on cpu"
    assert form.refusal(torch.zeros(1, dtype=torch.float16), 1) == "takes float32 on cpu"
    assert form.refusal(torch.zeros(1), 0) == "takes no empty calls"
    assert form.refusal(torch.zeros(1), 1) is None


def test_a_form_that_is_neither_there_nor_missing_and_an_unknown_kernel_are_refused():
    for wrong in ({"run": None}, {"run": abs, "missing": "no compiler"}):
        with pytest.raises(ConfigError, match="either a function to run or the reason"):
            Form(kind="cpp", **wrong)
    with pytest.raises(ConfigError, match="reference, torch, triton, cpp"):
        Form(kind="cuda", run=abs)
    with pytest.raises(ConfigError, match=r"no kernel 'rings'.*kuramoto"):
        register("rings", Form(kind="cpp", run=abs))


def test_the_device_and_the_machine_are_reasons(forms, monkeypatch):
    monkeypatch.setattr(registry, "devices", lambda: ("cpu",))
    monkeypatch.setitem(
        registry._FORMS,
        "kuramoto",
        (
            Form(kind="triton", run=abs, takes="float32 on CUDA", devices=("cuda",)),
            Form(kind="cpp", run=None, missing="there is no C compiler"),
            Form(kind="torch", name="adjoint", run=abs, takes="eager calls", refuses=lambda *_: None),
            Form(kind="torch", name="mean field", run=abs),
            Form(kind="reference", run=abs),
        ),
    )
    for kernel in set(HOMES) - {"kuramoto"}:
        monkeypatch.setitem(registry._FORMS, kernel, (Form(kind="reference", run=abs),))
    assert {form.label: reason for form, reason in survey()["kuramoto"].items()} == {
        "triton": "takes float32 on CUDA, and this machine has cpu alone",
        "cpp": "there is no C compiler",
        "torch (adjoint)": None,
        "torch (mean field)": "runs calls that others refuse: torch (adjoint) takes eager calls",
        "reference": "runs where it is asked for alone: torch (mean field) takes every call",
    }
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    reasons = list(survey()["kuramoto"].values())
    assert reasons[2:] == ["POSITRONIC_KERNELS is 'reference'"] * 2 + [None]


@pytest.fixture
def for_cuda(monkeypatch):
    """As if this PyTorch were built for CUDA."""
    monkeypatch.setattr(registry, "INTERPRETED", False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


def test_a_module_that_was_left_behind_is_missing(for_cuda, monkeypatch):
    monkeypatch.setattr(registry, "_builds", lambda: True)
    there = triton_form(*HERE, takes="float32")
    assert (there.run, there.missing, there.devices) == (kuramoto.integrate_reference, None, ("cuda",))
    left = triton_form("positronic.kernels.kuramoto.mean_field.triton", "integrate_fused", takes="float32")
    assert left.run is None
    assert "mean_field" in left.missing


def test_without_cuda_a_module_is_not_even_imported(monkeypatch):
    monkeypatch.setattr(registry, "INTERPRETED", False)
    monkeypatch.setattr(torch.version, "cuda", None)
    form = triton_form("positronic.kernels.nowhere", "nothing", takes="float32")
    assert form.missing == "this PyTorch is built without CUDA"


@pytest.mark.parametrize("lacking", ["compiler", "headers"])
def test_where_triton_cannot_build_its_launchers_it_is_not_asked_to(lacking, for_cuda, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(
        registry, "which", lambda name: "/usr/bin/gcc" if lacking == "headers" and name == "gcc" else None
    )
    monkeypatch.setattr(registry.sysconfig, "get_path", lambda *_: str(tmp_path))
    if lacking == "compiler":
        (tmp_path / "Python.h").touch()
    assert triton_form(*HERE, takes="float32").missing == "Triton needs a C compiler and Python's headers"
    assert "PyTorch's operations run in its place" in caplog.text
    monkeypatch.setenv("CC", "gcc")
    (tmp_path / "Python.h").touch()
    assert triton_form(*HERE, takes="float32").missing is None


def test_a_compiler_meets_the_same_choice_whole_and_again_when_another_is_asked_for(fused, monkeypatch):
    bank, field = bank_of(n=sum(FITTING), dtype=torch.float32), field_of(n_rings=3, dtype=torch.float32)

    def run(theta):
        return integrate(theta, *bank[1:], field, FITTING, 4, 0.5)

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    with torch.no_grad():
        for asked in ("", "torch", "reference", "torch,kuramoto=reference", ""):
            monkeypatch.setenv("POSITRONIC_KERNELS", asked)
            found = compiled(bank[0])
            assert torch.equal(found, fused) if not asked else torch.allclose(found, run(bank[0]), atol=1e-5)


def test_forms_of_another_distribution_come_first_of_their_kind_whenever_they_join(forms):
    register("kuramoto", Form(kind="torch", run=lambda: "theirs", by="others"))
    register("kuramoto", Form(kind="torch", name="late", run=lambda: "late"))
    labels = [form.label for form in forms_of("kuramoto")]
    assert labels == ["triton", "cpp", "torch (from others)", "torch", "torch (late)", "reference"]
    register("kuramoto", Form(kind="torch", run=lambda: "again", by="others"))
    assert [form.label for form in forms_of("kuramoto")] == labels


def test_an_entry_point_joins_once_when_the_first_kernel_registers(monkeypatch, unasked):
    module = type(sys)("joining_kernels")
    module.joined = 0

    def join():
        module.joined += 1
        register("kuramoto", Form(kind="cpp", run=lambda: "theirs", takes="float32 on cpu", by="others"))

    module.join = join
    monkeypatch.setitem(sys.modules, module.__name__, module)
    points = [EntryPoint("others", "joining_kernels:join", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "positronic.kernels" else [])
    monkeypatch.setattr(registry, "_FORMS", {})
    register("kuramoto", Form(kind="torch", run=lambda: "ours"), Form(kind="reference", run=lambda: "definition"))
    register("store", Form(kind="reference", run=lambda: "definition"))
    assert module.joined == 1
    assert ran() == "theirs"
    monkeypatch.setenv("POSITRONIC_KERNELS", "torch")
    assert ran() == "ours"


def test_a_distribution_that_cannot_be_imported_is_named_in_one_line(monkeypatch, caplog):
    points = [EntryPoint("others", value, registry.GROUP) for value in ("no_such_module", "json:no_such_function")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(registry, "_FORMS", {})
    with caplog.at_level(logging.WARNING):
        register("kuramoto", Form(kind="reference", run=lambda: "definition"))
    assert [record.message.partition(" do not join")[0] for record in caplog.records] == [
        f"The kernels of {point.value}" for point in points
    ]
    assert ran() == "definition"


def test_an_installed_distribution_is_chosen_and_listed(tmp_path):
    """Its module imports a kernel's package, as such modules will."""
    (tmp_path / "fast_rings.py").write_text(
        "from positronic.kernels.kuramoto import integrate_reference\n"
        "from positronic.kernels.registry import Form, register\n"
        "def still(theta, *_): return 0 * theta\n"
        "register('kuramoto', Form(kind='cpp', run=still, takes='CPU', devices=('cpu',), by='fast-rings'))\n"
        "register('store', Form(kind='cpp', run=None, missing='no AVX here', by='fast-rings'))\n"
    )
    info = tmp_path / "fast_rings-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast-rings\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[positronic.kernels]\nfast_rings = fast_rings\n")
    env = {name: value for name, value in os.environ.items() if name != "POSITRONIC_KERNELS"}
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    command = [sys.executable, "-m", "positronic", "kernels", "--json"]
    ended = subprocess.run(command, env=env | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)["kernels"]
    if not torch.cuda.is_available():
        assert found["kuramoto"]["runs"] == "cpp (from fast-rings)"
    reasons = {form["form"]: form["reason"] for form in found["store"]["forms"]}
    assert reasons["cpp (from fast-rings)"] == "no AVX here"


def test_the_command_prints_what_runs_here_and_why_the_rest_does_not(capsys, monkeypatch, unasked):
    assert main(["kernels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"devices", "asked", "kernels"}
    assert found["devices"][0] == "cpu"
    assert list(found["kernels"]) == list(HOMES)
    for kernel, said in found["kernels"].items():
        assert {"form", "kind", "by", "takes", "reason"} == set(said["forms"][0])
        assert [form["form"] for form in said["forms"] if form["reason"] is None] == [said["runs"]]
        assert [form["form"] for form in said["forms"]] == [form.label for form in forms_of(kernel)]
    if torch.version.cuda is None and not registry.INTERPRETED:
        assert found["kernels"]["colony"]["forms"][0]["reason"] == "this PyTorch is built without CUDA"
    assert main(["kernels"]) == 0
    shown = capsys.readouterr().out
    for kernel, said in found["kernels"].items():
        for form in said["forms"]:
            assert form["reason"] is None or f"{kernel}, {form['form']}: {form['reason']}\n" in shown
    monkeypatch.setenv("POSITRONIC_KERNELS", "reference")
    assert main(["kernels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {said["runs"] for said in found["kernels"].values()} == {"reference"}
    assert found["asked"] == "reference"
    monkeypatch.setenv("POSITRONIC_KERNELS", "fast")
    assert main(["kernels"]) == 2
    assert "names no form" in capsys.readouterr().err


def test_no_package_of_kernels_stands_outside_the_registry():
    packages = {f"positronic.kernels.{path.parent.name}" for path in (PACKAGE / "kernels").glob("*/__init__.py")}
    assert packages == set(HOMES.values())
    for package in packages:
        import_module(package)
