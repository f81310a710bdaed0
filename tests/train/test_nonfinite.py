"""What is not finite is named, skipped and counted; the third in a row stops the run."""

import pytest
import torch
from train_example import Stream, trainer

from positronic.data import TokenBatch
from positronic.errors import TrainingError


def broken_at(made, steps, path="trunk.2.mixer"):
    """Make a module return NaN in these steps (0, 1, ...)."""
    module = made.model.get_submodule(path)

    def hook(module, inputs, output):
        if made.counters.step in steps:
            return output._replace(y=output.y * float("nan"))
        return None

    module.register_forward_hook(hook)


def weights_and_memory(made):
    return {**made.model.state_dict(), **made.stepper.state()[0]}


def test_a_step_that_is_not_finite_names_the_module_and_moves_nothing():
    made, seen = trainer(steps=6)
    broken_at(made, {3})
    made.run(3)
    before = {name: t.clone() for name, t in weights_and_memory(made).items()}
    made.run(4)
    assert all(torch.equal(t, before[name]) for name, t in weights_and_memory(made).items())
    assert made.counters.skipped == 1
    assert seen.steps[3]["fault"] == "the output of trunk.2.mixer"
    assert seen.steps[3]["loss"] is None
    assert seen.steps[3]["grad_norm"] is None
    made.run()
    assert made.counters.step == 6
    assert "fault" not in seen.steps[4]


def test_two_in_a_row_are_forgiven_and_the_third_stops_the_run():
    made, _ = trainer(steps=9)
    broken_at(made, {1, 2, 4, 5, 6})
    made.run(4)
    with pytest.raises(TrainingError, match=r"3 steps in a row.*trunk\.2\.mixer.*--lr"):
        made.run()
    assert made.counters.skipped == 4


def test_an_infinite_weight_is_named():
    made, seen = trainer(steps=1)
    with torch.no_grad():
        made.model.trunk[1].mixer.up.weight[0, 0] = float("inf")
    made.run()
    assert seen.steps[0]["fault"] == "the weights trunk.1.mixer.up.weight"


def test_a_gradient_that_breaks_on_the_way_back_is_named():
    made, seen = trainer(steps=1)

    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    made.model.trunk[1].mixer.up.register_forward_hook(lambda m, i, output: Breaks.apply(output))
    made.run()
    assert seen.steps[0]["fault"] == "the gradient of trunk.1.mixer.up.weight"


def test_a_fault_in_one_micro_batch_of_many_is_found():
    class Huge(Stream):
        def next(self, rows):
            return super().next(rows)

    made, seen = trainer(steps=1, stream=Huge(), micro_rows=2)
    calls = []

    def hook(module, inputs, output):
        calls.append(1)
        if (len(calls) - 1) % 4 == 2:
            return output._replace(y=output.y * float("inf"))
        return None

    made.model.trunk[0].mixer.register_forward_hook(hook)
    made.run()
    assert seen.steps[0]["fault"] == "the output of trunk.0.mixer"
    assert isinstance(Stream().next(1), TokenBatch)
