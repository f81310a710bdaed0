"""Asking a GPU for the next step before reading the last changes nothing but the waiting; rehearsed here on the CPU."""

import pytest
import torch
from test_trainer import through_files
from train_example import Stream, small_config, trainer

from positronic.errors import TrainingError
from positronic.models import build
from positronic.train.device import Device


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(Device, "runs_ahead", property(lambda self: True))
    monkeypatch.setattr(Device, "send", lambda self, batch: batch)
    monkeypatch.setattr(Device, "reading", lambda self, values: values.clone().tolist)


def test_running_ahead_gives_the_same_run(monkeypatch, request):
    waiting, seen = trainer()
    waiting.run()
    request.getfixturevalue("ahead")
    made, seen_ahead = trainer()
    made.run(5)
    assert made.counters.step == 5
    part = through_files(made.snapshot())
    model = build(small_config())
    model.load_state_dict(made.model.state_dict())
    again, seen_again = trainer(model=model, stream=Stream())
    again.restore(part)
    again.run()
    assert seen.timeless() == seen_ahead.timeless() + seen_again.timeless()
    for name, values in waiting.model.state_dict().items():
        assert torch.equal(values, again.model.state_dict()[name]), name


def test_faults_are_skipped_named_and_counted_when_running_ahead(ahead):
    made, seen = trainer(steps=9)
    mixer = made.model.get_submodule("trunk.1.mixer")
    with torch.no_grad():
        mixer.up.weight[0, 0] = float("nan")
    before = {name: t.clone() for name, t in made.model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"3 steps in a row.*trunk\.1\.mixer\.up\.weight"):
        made.run()
    assert [e["fault"] for e in seen.steps] == ["the weights trunk.1.mixer.up.weight"] * 2
    for name, values in made.model.state_dict().items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0, equal_nan=True)


def test_evaluations_and_checkpoints_see_the_step_they_are_about(ahead):
    steps = []
    made, _ = trainer(validate=lambda model: steps.append(made.counters.step) or {"bits_per_byte": 1.0})
    made.cadence = made.cadence.__class__(rows=8, micro_rows=8, evaluate_every=5)
    made.run()
    assert steps == [0, 5, 10, 12]
