"""Wrongs put into mixers and adapters on purpose are noticed by their tests; and the tool that puts them in."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mutants import PACKAGE, ROOT, answering, mutants, mutated, sample

SEED = 16
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "adapters/hf/loss.py",
        "batch = TokenBatch(tokens, targets.clamp(min=0), counted, segments, options.valid)",
        "batch = TokenBatch(tokens, targets.clamp(min=1), counted, segments, options.valid)",
    ): "a target that is not counted may be any token",
    (
        "adapters/vllm.py",
        "place = name.replace('.mixer.', '.mixer.attention.', 1) if paged else name",
        "place = name.replace('.mixer.', '.mixer.attention.', 2) if paged else name",
    ): "the name of a parameter of attention has one mixer in it",
}
"""File, statement before, statement after: why no test can tell them apart."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("patterns", "n", "minutes"), [(("mixers/*.py",), 60, 40), (("adapters/*.py", "adapters/hf/*.py"), 20, 40)]
)
def test_no_wrong_survives(patterns, n, minutes):
    print(f"seed {SEED}")
    said = subprocess.run(
        [sys.executable, "tests/mutants.py", str(SEED), str(n), str(60 * minutes), *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert found, "no mutant was tried"
    survivors = [
        f"{m['file']}:{m['line']}: {m['before']}  ->  {m['after']}"
        for m in found
        if not m["killed"] and (m["file"], m["before"], m["after"]) not in EQUIVALENT
    ]
    assert not survivors, "\n".join(survivors)


def test_a_sample_is_the_same_for_the_same_seed():
    assert sample(3, 12, ["mixers/*.py"]) == sample(3, 12, ["mixers/*.py"])
    assert sample(3, 12, ["mixers/*.py"]) != sample(4, 12, ["mixers/*.py"])


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("mixers/local_conv.py", "F.silu(z)", "F.gelu(z)"),
        ("mixers/local_conv.py", "self.out(F.silu(z))", "self.out(z)"),
        ("mixers/channel_mix.py", "F.gelu(self.up(x))", "F.silu(self.up(x))"),
        ("mixers/value_projector.py", "F.silu(self.opening(o))", "F.gelu(self.opening(o))"),
        ("mixers/metric_attention.py", ".clamp(-LARGEST_SINK, LARGEST_SINK)", ""),
    ],
)
def test_the_wrongs_that_nobody_noticed_are_among_them(file, before, after):
    whole = ast.unparse(ast.parse((PACKAGE / file).read_text("utf-8")))
    found = {m.after for m in mutants(PACKAGE / file)}
    line = next(line.strip() for line in whole.splitlines() if before in line)
    assert line.replace(before, after) in found


def test_every_mutant_is_another_program_that_parses():
    file = PACKAGE / "mixers" / "moe.py"
    source = file.read_text("utf-8")
    plain = ast.unparse(ast.parse(source))
    changed = [mutated(source, m.number) for m in mutants(file)]
    assert len(changed) > 20
    assert plain not in changed
    assert len(set(changed)) == len(changed)
    assert not [m for m in mutants(file) if "ConfigError" in m.before or m.before.startswith(('"""', "from", "import"))]


def test_what_is_said_to_make_no_difference_is_still_there():
    for file, before, after in EQUIVALENT:
        assert (before, after) in {(m.before, m.after) for m in mutants(PACKAGE / file)}, file


def test_every_file_has_tests_that_answer_for_it():
    for pattern in ("mixers/*.py", "adapters/*.py", "adapters/hf/*.py"):
        for file in PACKAGE.glob(pattern):
            name = file.relative_to(PACKAGE).as_posix()
            if mutants(file) and file.name != "__init__.py":
                assert answering(name), name
                assert all((ROOT / Path(test)).is_file() for test in answering(name))
