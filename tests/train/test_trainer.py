"""The loop: a run in pieces is the run in one piece, bit for bit."""

import json
import math
import signal

import pytest
import torch
from train_example import Stream, small_config, trainer

from positronic.checkpoint import TrainingPart
from positronic.models import build
from positronic.train import AdamWConfig, MuonConfig, ScheduleConfig
from positronic.train.interrupt import Interrupt

OPTIMIZERS = {"adamw": AdamWConfig(lr=1e-2), "muon": MuonConfig(lr=1e-2)}


def through_files(part: TrainingPart) -> TrainingPart:
    """What a checkpoint makes of a snapshot: other tensors, and JSON."""
    return TrainingPart({name: t.clone() for name, t in part.tensors.items()}, json.loads(json.dumps(part.meta)))


@pytest.mark.parametrize("micro_rows", [8, 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("cut", [1, 5, 10])
def test_a_resumed_run_equals_the_unbroken_run_bit_for_bit(kind, cut, micro_rows):
    settings = {"optimizer": OPTIMIZERS[kind], "micro_rows": micro_rows}
    whole, seen = trainer(**settings, stream=Stream(padded=True))
    whole.run()
    first, seen_first = trainer(**settings, stream=Stream(padded=True))
    first.run(cut)
    part, weights = through_files(first.snapshot()), {k: v.clone() for k, v in first.model.state_dict().items()}
    model = build(small_config(), seed=99)
    model.load_state_dict(weights)
    second, seen_second = trainer(**settings, stream=Stream(padded=True), model=model)
    torch.manual_seed(5)
    second.restore(part)
    second.run()
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, second.model.state_dict()[name]), name
    ours, theirs = whole.snapshot(), second.snapshot()
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, values in ours.tensors.items():
        assert torch.equal(values, theirs.tensors[name]), name
    assert seen.timeless() == seen_first.timeless() + seen_second.timeless()


def test_running_in_chunks_equals_running_at_once():
    whole, seen = trainer()
    whole.run()
    pieces, seen_pieces = trainer()
    for until in (1, 4, 11, 12):
        pieces.run(until)
    assert seen.timeless() == seen_pieces.timeless()


def test_the_loss_of_a_new_model_is_that_of_a_fair_die():
    made, seen = trainer(steps=1)
    made.run()
    assert seen.steps[0]["loss"] == pytest.approx(math.log(48), rel=0.01)


def test_one_batch_is_learned_by_heart():
    class Same(Stream):
        def next(self, rows):
            self.taken = 0
            return super().next(rows)

    made, seen = trainer(stream=Same(), steps=300, schedule=ScheduleConfig(warmup=10))
    made.run()
    assert seen.steps[-1]["loss"] < 0.05


def test_recomputing_blocks_changes_no_bit():
    plain, _ = trainer(steps=4)
    plain.run()
    model = build(small_config(), seed=1)
    model.trunk.recompute = True
    again, _ = trainer(steps=4, model=model)
    again.run()
    for name, values in plain.model.state_dict().items():
        assert torch.equal(values, again.model.state_dict()[name]), name


def test_a_validation_that_is_not_finite_is_told_as_null_and_is_never_the_best():
    results = iter([float("nan"), 3.0, float("inf")])
    made, seen = trainer(steps=2, validate=lambda model: {"bits_per_byte": next(results)})
    made.cadence = made.cadence.__class__(rows=8, micro_rows=8, evaluate_every=1)
    made.run()
    assert [e["bits_per_byte"] for e in seen.evaluations] == [None, 3.0, None]
    assert (made.counters.best_step, made.counters.best_bits_per_byte) == (1, 3.0)


def test_a_second_ctrl_c_strikes_unless_it_came_with_the_first():
    now, before = [0.0], signal.getsignal(signal.SIGINT)
    with Interrupt(lambda: now[0]) as interrupt:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.asked
        now[0] = 5.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
