"""Where Triton's kernels are tested: on a GPU, or, slowly, by its interpreter on the CPU (TRITON_INTERPRET=1)."""

import os
import subprocess
import sys

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if GPU else "cpu"
runs = pytest.mark.skipif(not GPU and not INTERPRETED, reason="needs a GPU, or TRITON_INTERPRET=1")
on_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
compiles = pytest.mark.skipif(INTERPRETED, reason="needs Triton's compiler")
interprets = pytest.mark.skipif(GPU or INTERPRETED, reason="the tests above run as they are")


def passes_under_the_interpreter(path: str) -> None:
    """A file of tests, in a process of its own: Triton asks once, when it is imported, how it is to run."""
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", path],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout[-4000:]
    assert " passed" in tests.stdout


def compiled_for_hopper(kernel, **fixed):
    """The stages of a kernel's compilation with a warp a program: no GPU is needed for that."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def kind(name):
        return "constexpr" if name in fixed else "*fp32" if name.endswith("_ptr") else "fp32" if name == "dt" else "i32"

    source = ASTSource(kernel, {name: kind(name) for name in kernel.arg_names}, fixed)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm


def named(run, *given):
    """Names of the operations that a compiler is given for a call, whole."""
    names = []

    def backend(graph, _):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compile(run, fullgraph=True, dynamic=False, backend=backend)(*given)
    return names
