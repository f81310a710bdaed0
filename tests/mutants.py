"""Small wrongs in our own source, one at a time, and the tests that should notice them.

    python tests/mutants.py SEED N SECONDS PATTERN ...      a JSON line a mutant: what it is, whether it was killed

A mutant changes one place of a function's body or of a module's constant: another activation, operator, sign, constant
or comparison, or a call left out. Messages, annotations, defaults of fields and their validation stay. PyTorch
is loaded once; each mutant has a forked process of its own, where a copy of the package with one changed file is found
first.
"""

import ast
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "positronic"
SECONDS_A_MUTANT = 300
SWAPS = {"silu": "gelu", "gelu": "silu", "tanh": "sigmoid", "sigmoid": "tanh", "cos": "sin", "sin": "cos"}
DROPS = {"silu", "gelu", "relu", "tanh", "sigmoid", "softmax", "clamp", "soft_clamp", "square", "exp", "sqrt", "detach"}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
TESTS = {
    "mixers/attention.py": ["tests/mixers/test_attention.py"],
    "mixers/metric": ["tests/mixers/test_metric_attention.py", "tests/kernels/test_metric_kernels.py"],
    "mixers/mixture.py": ["tests/mixers/test_mixture.py"],
    "mixers/moe.py": ["tests/mixers/test_moe.py"],
    "mixers/radius.py": ["tests/mixers/test_metric_attention.py"],
    "mixers/kuramoto.py": ["tests/models/test_quazimoto.py"],
    "mixers/colony.py": ["tests/models/test_mycel.py"],
    "mixers/gated_delta.py": ["tests/mixers/test_gated_delta.py"],
    "mixers/span_knot.py": ["tests/mixers/test_gated_delta.py"],
    "mixers/mlstm.py": ["tests/mixers/test_mlstm_layer.py"],
    "mixers/titans.py": ["tests/mixers/test_titans.py"],
    "mixers/deep_memory.py": ["tests/mixers/test_titans.py"],
    "mixers/experts.py": ["tests/mixers/test_experts.py"],
    "mixers/": ["tests/mixers/test_definitions.py", "tests/laws.py"],
    "adapters/chimera_json.py": ["tests/adapters/test_chimera_json.py"],
    "adapters/hf/classifying.py": ["tests/adapters/test_hf_classifying.py"],
    "adapters/hf/loss.py": ["tests/adapters/test_share_of_losses.py", "tests/adapters/test_accumulation.py"],
    "adapters/hf/": [
        f"tests/adapters/{name}.py" for name in ("test_hf", "test_hf_loading", "test_hf_generate", "test_families")
    ],
    "adapters/lora": ["tests/adapters/test_lora.py", "tests/adapters/test_lora_folder.py"],
    "adapters/lm_eval.py": ["tests/adapters/test_lm_eval.py"],
    "adapters/export": ["tests/adapters/test_export.py"],
    "adapters/vllm.py": ["tests/adapters/test_vllm.py"],
}
"""Which tests answer for which files: all whose beginning fits, the quickest first."""


@dataclass(frozen=True)
class Mutant:
    file: str
    """Below the package."""
    before: str
    after: str
    """The changed statement's first line."""
    line: int
    number: int
    """Of the places of its file, in order."""


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What might stand in a node's place."""
    if isinstance(node, ast.Call):
        yield from _other_calls(node)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        yield ast.Compare(node.left, [COMPARISONS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value * 10 if isinstance(node.value, float) and node.value else node.value + 1)


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    method = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") not in ("F", "torch", "math")
    if name in SWAPS:
        other = SWAPS[name]
        func = ast.Attribute(node.func.value, other, ast.Load()) if isinstance(node.func, ast.Attribute) else None
        yield ast.Call(func or ast.Name(other, ast.Load()), node.args, node.keywords)
    if name in DROPS:
        yield node.func.value if method else node.args[0]  # type: ignore[attr-defined]


class _Placing(ast.NodeTransformer):
    """Counts the places of a module, and changes the one that was asked for."""

    def __init__(self, number: int | None = None):
        self.number, self.seen = number, 0
        self.places: list[int] = []
        self.inside = False

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.FunctionDef):
            if node.name == "__post_init__":
                return node
            outer, self.inside = self.inside, True
            node.body = [self.visit(part) for part in node.body]  # type: ignore[misc]
            self.inside = outer
            return node
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").isupper():
            outer, self.inside = self.inside, True
            node.value = self.visit(node.value)  # type: ignore[assignment]
            self.inside = outer
            return node
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
            return node
        if self.inside:
            for changed in variants(node):
                self.seen += 1
                self.places.append(getattr(node, "lineno", 0))
                if self.seen - 1 == self.number:
                    return changed
        if isinstance(node, ast.AnnAssign):
            node.value = self.visit(node.value) if self.inside and node.value else node.value  # type: ignore[assignment]
            return node
        return self.generic_visit(node)


def mutated(source: str, number: int) -> str:
    """The module with its place `number` changed; comments are lost."""
    return ast.unparse(ast.fix_missing_locations(_Placing(number).visit(ast.parse(source))))


def mutants(file: Path) -> list[Mutant]:
    """All of one file."""
    source = file.read_text("utf-8")
    counted = _Placing()
    counted.visit(ast.parse(source))
    plain = ast.unparse(ast.parse(source)).splitlines()
    found = []
    for number, line in enumerate(counted.places):
        changed = mutated(source, number).splitlines()
        at = next(i for i, (a, b) in enumerate(zip(plain, changed, strict=False)) if a != b)
        name = file.relative_to(PACKAGE).as_posix()
        found.append(Mutant(name, plain[at].strip(), changed[at].strip(), line, number))
    return found


def sample(seed: int, n: int, patterns: list[str]) -> list[Mutant]:
    """n mutants of the files that match, the same for the same source."""
    files = sorted({file for pattern in patterns for file in PACKAGE.glob(pattern) if file.name != "__init__.py"})
    every = [mutant for file in files for mutant in mutants(file)]
    return random.Random(seed).sample(every, min(n, len(every)))


def answering(file: str) -> list[str]:
    return [test for beginning, tests in TESTS.items() if file.startswith(beginning) for test in tests]


def killed(mutant: Mutant, place: Path) -> bool:
    """Whether a test fails, or none ends, once the package in `place` has this wrong."""
    target = place / "positronic" / mutant.file
    source = target.read_text("utf-8")
    target.write_text(mutated(source, mutant.number), "utf-8")
    child = os.fork()
    if child == 0:
        _run_tests(place, answering(mutant.file))
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    finally:
        target.write_text(source, "utf-8")


def _run_tests(place: Path, tests: list[str]) -> None:
    """In the forked process, which ends here."""
    import pytest

    signal.alarm(SECONDS_A_MUTANT)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.path.insert(0, str(place))
    os.environ["PYTHONPATH"] = str(place)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests])))


def main(seed: str, n: str, seconds: str, *patterns: str) -> None:
    import torch

    torch.set_num_threads(1)
    os.chdir(ROOT)
    until = time.monotonic() + float(seconds)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(PACKAGE, place / "positronic", ignore=shutil.ignore_patterns("__pycache__"))
        for mutant in sample(int(seed), int(n), list(patterns)):
            if time.monotonic() > until:
                return
            print(json.dumps(asdict(mutant) | {"killed": killed(mutant, place)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
