"""A run's folder: killed at any instant it goes on as if nothing had happened; what does not fit is refused."""

import contextvars
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed_run import CONFIG, Stops, begin, stream, validate
from killing import told
from train_example import Recorder, trainer

from positronic.checkpoint import RunFolder, load, load_training
from positronic.errors import CheckpointError, ConfigError
from positronic.train import MuonConfig, ScheduleConfig, resume, saved_config

HERE = Path(__file__).parent


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def steps(run: Path) -> list[dict]:
    """Step lines without what a clock said."""
    timed = ("seconds", "tokens_per_s", "left_s")
    return [{k: v for k, v in e.items() if k not in timed} for e in lines(run) if e["event"] == "step"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert begin(run).stopped == "finished"
    return run


def test_a_run_leaves_a_folder_with_everything(unbroken):
    assert (unbroken / "last").resolve().name == f"step-{CONFIG.steps:08d}"
    model, tokenizer = load(unbroken / "last")
    assert tokenizer.vocab_size == model.config.vocab_size
    assert [e["step"] for e in steps(unbroken)] == list(range(1, CONFIG.steps + 1))
    evaluations = [e for e in lines(unbroken) if e["event"] == "evaluation"]
    assert [e["step"] for e in evaluations] == [0, 8, 16, 24, 30]
    best = min(evaluations, key=lambda e: e["bits_per_byte"])["step"]
    assert (unbroken / "best").resolve().name == f"step-{best:08d}"
    kept = sorted(p.name for p in unbroken.glob("step-*"))
    assert len(kept) <= 4
    assert saved_config(unbroken / "last") == CONFIG


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 8))])
def test_a_run_killed_at_a_random_instant_goes_on_to_the_same_bytes(tmp_path, unbroken, seed):
    run = tmp_path / "run"
    command = [sys.executable, str(HERE / "killed_run.py"), str(run)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (run / "last").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 1.2))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    state = resume(run, CONFIG, data=stream(), device="cpu")
    assert state.stopped == "finished"
    ours, theirs = (folder / "last" / "model.safetensors" for folder in (unbroken, run))
    assert theirs.read_bytes() == ours.read_bytes()
    assert steps(run) == steps(unbroken)


def best_of(run: Path) -> int:
    evaluations = [e for e in lines(run) if e["event"] == "evaluation"]
    return min(evaluations, key=lambda e: e["bits_per_byte"])["step"]


@pytest.mark.parametrize("method", ["publish", "publish_best", "prune"])
@pytest.mark.parametrize("which", [1, "best", "last"])
def test_killed_between_checkpoint_link_and_pruning_the_folder_is_mended(
    tmp_path, unbroken, monkeypatch, method, which
):
    """`which` save is the last that the process lives to see; where that is the best, its link must not be lost."""
    run, step = tmp_path / "run", {1: 4, "best": best_of(unbroken), "last": CONFIG.steps}[which]
    original = getattr(RunFolder, method)

    def pulled(self, *args, **kwargs):
        if self.checkpoint_path(step).exists():
            raise Stops.Stopped
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, method, pulled)
        assert begin(run) is None
    assert resume(run, CONFIG, data=stream(), device="cpu", validate=validate).stopped == "finished"
    ours, theirs = told(unbroken), told(run)
    assert sorted(theirs) == sorted(ours)
    assert [path for path in ours if theirs[path] != ours[path]] == []
    assert theirs["best"] == f"step-{best_of(unbroken):08d}"


def test_links_and_superseded_steps_of_a_finished_run_are_mended_too(tmp_path, unbroken):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run, symlinks=True)
    ours = told(run)
    (run / "best").unlink()
    (run / "last").unlink()
    (run / "last").symlink_to("step-00000004")
    (run / ".best.link").symlink_to("nowhere")
    shutil.copytree(run / "step-00000030", run / "step-00000004")
    (run / ".step-00000008.gone").mkdir()
    resume(run, data=stream(), device="cpu")
    assert told(run) == ours


def test_where_links_cannot_be_made_the_best_step_is_kept_all_the_same(tmp_path, unbroken, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    begin(tmp_path / "run")
    assert best_of(unbroken) in RunFolder(tmp_path / "run").steps()
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize("going_on", [False, True], ids=["new", "resumed"])
def test_a_second_run_in_the_folder_is_refused_and_the_first_is_not_disturbed(tmp_path, unbroken, going_on):
    run, refused = tmp_path / "run", []

    class SecondComes(Recorder):
        def step(self, event):
            if event["step"] == 9:
                child = os.fork()
                if child == 0:
                    contextvars.Context().run(another_process)
                os.waitpid(child, 0)
                refused.append((tmp_path / "said").read_text())

    def another_process():
        try:
            if going_on:
                resume(run, data=stream(), device="cpu")
            else:
                begin(run)
        except CheckpointError as error:
            (tmp_path / "said").write_text(str(error))
        finally:
            os._exit(0)

    if going_on:
        begin(run, until=6)
        assert resume(run, data=stream(), device="cpu", validate=validate, observers=[SecondComes()]).stopped
    else:
        begin(run, observers=[SecondComes()])
    assert f"Process {os.getpid()} is writing to {run} now" in refused[0]
    assert told(run) == told(unbroken)


def test_a_run_resumed_when_finished_changes_nothing(unbroken):
    before = (unbroken / "metrics.jsonl").read_bytes()
    assert resume(unbroken, data=stream(), device="cpu").counters.step == CONFIG.steps
    assert (unbroken / "metrics.jsonl").read_bytes() == before


def test_a_half_written_line_and_lines_beyond_the_checkpoint_are_dropped(tmp_path):
    run = tmp_path / "run"
    begin(run, CONFIG.replace(steps=6, checkpoint_every=4), until=5)
    assert [e["step"] for e in steps(run)] == [1, 2, 3, 4, 5]
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"event": "step", "st')
    resume(run, data=stream(), device="cpu")
    assert [e["step"] for e in steps(run)] == [1, 2, 3, 4, 5, 6]


class Interrupts(Recorder):
    """Presses Ctrl-C once, in a given step."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def step(self, event):
        super().step(event)
        if event["step"] == self.at:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_finishes_the_step_saves_and_can_be_resumed(tmp_path, unbroken):
    run = tmp_path / "run"
    state = begin(run, observers=[Interrupts(at=11)])
    assert (state.stopped, state.counters.step) == ("interrupted", 11)
    assert (run / "last").resolve().name == "step-00000011"
    assert resume(run, data=stream(), device="cpu").stopped == "finished"
    ours, theirs = (folder / "last" / "model.safetensors" for folder in (unbroken, run))
    assert theirs.read_bytes() == ours.read_bytes()


@pytest.mark.parametrize("chunk", [7, 8])
def test_a_run_in_chunks_is_the_run_in_one_piece(tmp_path, unbroken, chunk):
    """At chunks that fall between checkpoints and evaluations, and at chunks that fall together with them."""
    run = tmp_path / "run"
    begin(run, until_saved=0)
    assert (run / "last").resolve().name == "step-00000000"
    for at in range(chunk, CONFIG.steps + chunk, chunk):
        state = resume(run, CONFIG, data=stream(), device="cpu", validate=validate, until=at)
        assert state.counters.step == min(at, CONFIG.steps)
        assert (run / "last").resolve().name == f"step-{state.counters.step:08d}"
    assert state.stopped == "finished"
    ours, theirs = (folder / "last" / "model.safetensors" for folder in (unbroken, run))
    assert theirs.read_bytes() == ours.read_bytes()
    assert steps(run) == steps(unbroken)


def test_resuming_with_another_config_lists_the_differences(unbroken):
    other = CONFIG.replace(batch_tokens=256, optimizer=MuonConfig())
    with pytest.raises(ConfigError, match=r"batch_tokens: 128 -> 256.*optimizer.kind: 'adamw' -> 'muon'"):
        resume(unbroken, other, data=stream(), device="cpu")
    model, _ = load(unbroken / "last")
    with pytest.raises(ConfigError, match=r"model\.d_model: 32 -> 64"):
        resume(unbroken, data=stream(), model_config=model.config.replace(d_model=64), device="cpu")


def test_resuming_where_nothing_is_and_starting_where_a_run_is_are_refused(tmp_path, unbroken):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        resume(tmp_path, data=stream(), device="cpu")
    with pytest.raises(CheckpointError, match="--resume"):
        begin(unbroken)


def test_a_training_state_with_a_part_missing_is_refused(unbroken):

    from positronic.checkpoint import TrainingPart

    part = load_training(unbroken / "last")
    made, _ = trainer()
    with pytest.raises(CheckpointError, match="counters"):
        made.restore(TrainingPart(part.tensors, {k: v for k, v in part.meta.items() if k != "counters"}))


def test_a_timed_run_ends_on_a_whole_schedule():
    ticks = itertools.count()
    schedule = ScheduleConfig(warmup=2)
    made, recorder = trainer(steps=100_000, minutes=0.05, schedule=schedule, clock=lambda: 0.02 * next(ticks))
    assert made.run().stopped == "finished"
    last = recorder.steps[-1]
    assert last["step"] == last["total"] > 10
    assert last["seconds"] < 1.05 * 60 * 0.05
    rates = [schedule.scale(n, last["total"]) for n in range(last["total"])]
    assert [e["rate"] for e in recorder.steps] == rates
