"""Observers: each event once, in words and numbers, and no influence on the run."""

import io
import json

import pytest
import torch
from train_example import Recorder, trainer

from positronic.train import MetricsFile, TensorBoard, progress
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
