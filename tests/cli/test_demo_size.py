"""The demo trains what its machine can teach in the time it has."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest

from positronic.cli.commands.demo import _say_size
from positronic.cli.parts.demo_size import (
    ENOUGH_STEPS,
    FEWEST_BYTES,
    MEASURED_BYTES,
    fitting,
    measured_bytes,
    sizes,
    step_seconds,
)
from positronic.observe import describe

LADDER = [size.name for size in sizes()]


@pytest.mark.parametrize(
    ("step_s", "chosen"),
    [((0.5, 0.1, 0.02), 0), ((1.1, 0.2, 0.05), 1), ((9.0, 1.2, 0.2), 2), ((90.0, 30.0, 9.0), 2)],
)
def test_the_largest_that_learns_in_time_is_chosen(step_s, chosen):
    times = dict(zip(LADDER, step_s, strict=True))
    asked = []

    def timed(size):
        asked.append(size.name)
        return times[size.name]

    size, slower = fitting(ENOUGH_STEPS * 1.0, timed)
    assert (size.name, size.step_s) == (LADDER[chosen], step_s[chosen])
    assert [other.name for other in slower] == LADDER[:chosen]
    assert asked == LADDER[: chosen + 1], "what is smaller still is not timed"


def test_what_was_too_slow_is_said(capsys):
    size, slower = fitting(ENOUGH_STEPS * 1.0, lambda size: {LADDER[0]: 9.0}.get(size.name, 0.25))
    _say_size(size, slower)
    said = capsys.readouterr().err
    assert f"{LADDER[0]} would take 9.0 s" in said
    assert f"{LADDER[1]} learns, at 0.2 s a step" in said
    _say_size(*fitting(1e9, lambda size: 0.1))
    assert capsys.readouterr().err == ""


def test_each_size_is_less_work_than_the_one_before_and_drafts_for_itself():
    found = [describe(size.model) for size in sizes()]
    work = [one.flops_per_token * size.batch_tokens for one, size in zip(found, sizes(), strict=True)]
    assert all(b < a / 2 for a, b in pairwise(work))
    assert all(size.model.drafts is not None for size in sizes())
    assert all(size.batch_tokens % size.model.context == 0 for size in sizes())


def test_measuring_takes_its_share_of_the_time_and_no_more():
    [tiny, *_] = sizes()
    assert measured_bytes(tiny._replace(step_s=0.1), 500) == MEASURED_BYTES
    assert measured_bytes(tiny._replace(step_s=1e9), 60) == FEWEST_BYTES
    slow, slower = (measured_bytes(tiny._replace(step_s=s), 60) for s in (0.25, 0.5))
    assert MEASURED_BYTES > slow > slower > FEWEST_BYTES
    assert slow == pytest.approx(2 * slower, abs=2), "a step that takes twice as long leaves time for half"
    assert step_seconds(sizes()[-1]) > 0


@pytest.mark.slow
def test_two_minutes_on_one_slow_core_beat_a_unigram_model(tmp_path):
    """One core, shared with three programs that never rest."""
    core = {min(os.sched_getaffinity(0))}
    pinned = "import os, runpy, sys; os.sched_setaffinity(0, %r); " % core  # noqa: UP031
    others = [subprocess.Popen([sys.executable, "-c", pinned + "\nwhile True: pass"]) for _ in range(3)]
    try:
        run = pinned + "sys.argv[1:] = ['demo', '--minutes', '2', '--out', 'quick']; runpy.run_module('positronic')"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        words = [sys.executable, "-c", run]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The model beats the unigram model" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "quick" / "report.html").exists()
