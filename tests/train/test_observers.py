"""Observers: each event once, in words and numbers, and no influence on the run."""

import io
import json
import resource
import signal
from collections import deque
from contextlib import contextmanager

import pytest
import torch
from killed_run import CONFIG, begin, stream
from killing import told
from train_example import Recorder, trainer

from positronic.checkpoint import RunFolder, load
from positronic.errors import CheckpointError
from positronic.train import MetricsFile, TensorBoard, progress, read_events, resume
from positronic.train.progress import _Bar, _Lines

STEP = {
    "step": 3,
    "total": 10,
    "loss": 2.5,
    "bits_per_byte": 1.25,
    "tokens_per_s": 1234.5,
    "left_s": 65.0,
    "grad_norm": 0.5,
    "rate": 1.0,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_show_loss_bits_speed_and_time_left_every_few_seconds():
    now, out = [0.0], io.StringIO()
    lines = _Lines(out, every_s=5.0, clock=lambda: now[0])
    for step, at in ((1, 0.0), (2, 1.0), (3, 4.9), (4, 5.1), (10, 5.2)):
        now[0] = at
        lines.step({**STEP, "step": step})
    said = out.getvalue().splitlines()
    assert [line.split()[1] for line in said] == ["1/10", "4/10", "10/10"]
    assert said[0] == "step 1/10  loss 2.500  1.250 bits/byte  1,234 tokens/s  1:05 left"


def test_a_skipped_step_is_always_said():
    out = io.StringIO()
    lines = _Lines(out, every_s=1e9)
    lines.step(STEP)
    lines.step({**STEP, "step": 4, "loss": None, "bits_per_byte": None, "fault": "the output of trunk.1.mixer"})
    assert "not finite in the output of trunk.1.mixer" in out.getvalue().splitlines()[1]


def test_a_bar_is_drawn_on_a_terminal_and_lines_elsewhere():
    pytest.importorskip("rich")
    assert isinstance(progress(io.StringIO()), _Lines)
    out = Terminal()
    bar = progress(out)
    assert isinstance(bar, _Bar)
    bar.evaluation({"step": 0, "bits_per_byte": 8.0})
    bar.step(STEP)
    bar.checkpoint({"step": 3, "folder": "run/step-3"})
    bar.close()
    assert "3/10" in out.getvalue()
    assert "1.250 bits/byte" in out.getvalue()
    assert "8.0000" in out.getvalue()


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.step(STEP)
    board.evaluation({"step": 3, "bits_per_byte": 1.5})
    board.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Scalars("step/loss")[0].value == 2.5
    assert read.Scalars("evaluation/bits_per_byte")[0].step == 3


def test_metrics_of_a_new_run_replace_what_lay_there(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "step", "step": 4}\nnot json\n')
    file = MetricsFile(path)
    file.step({"step": 1})
    file.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1]


def test_observers_and_validation_change_no_bit():
    plain, _ = trainer()
    plain.run()
    watched, seen = trainer(validate=lambda model: {"bits_per_byte": float(torch.rand(()) * 0 + 1)})
    watched.observers = [seen, Recorder()]
    watched.run()
    assert [e["step"] for e in seen.evaluations] == [0, 12]
    for name, values in plain.model.state_dict().items():
        assert torch.equal(values, watched.model.state_dict()[name]), name


DEEP = "[" * 100_000
LINES = {
    "nested too deep": '{"event": "step", "step": ' + DEEP,
    "nested whole": '{"event": "step", "step": 3, "loss": ' + "[" * 5000 + "]" * 5000 + "}",
    "a list": "[1, 2]",
    "a number": "7",
    "no event": '{"step": 3}',
    "a step that is text": '{"event": "step", "step": "3"}',
    "a step that is true": '{"event": "step", "step": true}',
    "no text": b"\xff\xfe\x00",
    "cut short": '{"event": "st',
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_is_no_event_ends_what_is_read_and_is_dropped_on_resume(tmp_path, line):
    path, bad = tmp_path / "metrics.jsonl", LINES[line]
    sound = b'{"event": "step", "step": 1}\n{"event": "checkpoint", "step": 2}\n'
    path.write_bytes(sound + (bad if isinstance(bad, bytes) else bad.encode()) + b"\n")
    assert [e["step"] for e in read_events(path)][:2] == [1, 2]
    MetricsFile(path, after=2).close()
    assert path.read_bytes() == sound


def test_a_checkpoint_that_was_not_said_is_said_by_the_run_that_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "step", "step": 2}\n')
    for _ in range(2):
        MetricsFile(path, after=2).close()
        said = read_events(path)[1:]
        assert said == [{"event": "checkpoint", "step": 2, "folder": str(tmp_path / "step-00000002")}]


def test_tensorboard_goes_on_in_the_same_file_from_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    for name, ends in (("whole", [(None, 6)]), ("broken", [(None, 5), (2, 4), (2, 3), (0, 1), (0, 6)])):
        for after, end in ends:
            board = TensorBoard(tmp_path / name, after)
            for step in range((after or 0) + 1, end + 1):
                board.step({"step": step, "loss": 1.0 / step})
            board.close()
            with open(board.path, "ab") as file:
                file.write(b"\x20\0\0\0\0\0\0\0half a record")
        with open(board.path, "r+b") as file:
            file.truncate(board.path.stat().st_size - 21)
    assert told(tmp_path / "broken") == told(tmp_path / "whole")
    assert len(list((tmp_path / "broken").iterdir())) == 1


@contextmanager
def files_of_at_most(size: int):
    """What the kernel answers to a longer file is what it answers on a full disk: an error from a write."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "make", [lambda p: MetricsFile(p / "metrics.jsonl"), lambda p: TensorBoard(p)], ids=["lines", "board"]
)
def test_a_full_disk_is_one_sentence_and_whole_records_before_it(tmp_path, make):
    pytest.importorskip("tensorboard")
    with files_of_at_most(4096):
        observer = make(tmp_path)
        for step in range(1, 20):
            observer.step({**STEP, "step": step})
        with pytest.raises(CheckpointError, match=r"could not be written: File too large.*still stands.*--resume"):
            deque(observer.step({**STEP, "step": step}) for step in range(20, 1000))
        observer.close()
    assert observer.path.stat().st_size <= 4096


def test_a_run_on_a_full_disk_keeps_its_checkpoint_and_goes_on_when_there_is_room(tmp_path):
    run = tmp_path / "run"
    begin(tmp_path / "whole" / "run")
    begin(run, until_saved=4)
    (run / "metrics.jsonl").open("a").close()
    largest = max(path.stat().st_size for path in run.rglob("*") if path.is_file())
    with files_of_at_most(largest - 1), pytest.raises(CheckpointError, match="could not be written"):
        resume(run, CONFIG, data=stream(), device="cpu")
    assert RunFolder(run).steps() == [4]
    load(run / "last")
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
    resume(run, CONFIG, data=stream(), device="cpu")
    ours, theirs = (folder / "last" / "model.safetensors" for folder in (run, tmp_path / "whole" / "run"))
    assert ours.read_bytes() == theirs.read_bytes()
