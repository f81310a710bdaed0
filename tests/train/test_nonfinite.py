"""What is not finite is named, skipped and counted; the third in a row stops the run."""

import itertools
import os
import signal
from dataclasses import replace

import pytest
import torch
from killed_run import CONFIG, begin, stream
from torch import nn
from train_example import Recorder, Stream, small_config, trainer

from positronic.checkpoint import RunFolder, load, load_training, save
from positronic.data import TokenBatch
from positronic.errors import CheckpointError, TrainingError
from positronic.models import build
from positronic.text import byte_tokenizer
from positronic.train import AdamWConfig, MuonConfig, ScheduleConfig, init_from, resume
from positronic.train.checkpoints import Checkpoints
from positronic.train.nonfinite import first_unsound


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


def with_an_unread_weight():
    """A model with a weight that no loss or gradient meets."""
    model = build(small_config(byte_tokenizer().vocab_size), seed=1)
    model.unread = nn.Parameter(torch.ones(2, 2))
    return model


class Ruins(Recorder):
    """Writes a number into the unread weight, or into what the optimizer remembers of it, after a step."""

    def __init__(self, made, at, value, memory=None, presses_ctrl_c=False):
        super().__init__()
        self.made, self.at, self.value, self.memory, self.presses_ctrl_c = made, at, value, memory, presses_ctrl_c

    def step(self, event):
        super().step(event)
        if event["step"] == self.at:
            with torch.no_grad():
                remembered, _ = self.made.stepper.state()
                ruined = self.made.model.unread if self.memory is None else remembered[f"adamw/unread/{self.memory}"]
                ruined[1, 1] = self.value
            if self.presses_ctrl_c:
                os.kill(os.getpid(), signal.SIGINT)


def recorded_in(folder, **settings):
    """A trainer that saves, of the model with the unread weight."""
    checkpoints = Checkpoints(RunFolder(folder), byte_tokenizer())
    return trainer(model=with_an_unread_weight(), checkpoints=checkpoints, **settings)[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("memory", [None, "exp_avg", "exp_avg_sq"])
def test_what_is_not_finite_is_never_written_and_the_last_sound_one_is_named(tmp_path, value, memory):
    made = recorded_in(tmp_path, steps=6)
    made.cadence = replace(made.cadence, checkpoint_every=2)
    made.observers = [Ruins(made, 3, value, memory)]
    with pytest.raises(TrainingError, match=r"After step 4 .*unread.* is not finite.*step-00000002, is sound.*--lr"):
        made.run()
    assert [e["loss"] for e in made.observers[0].steps if e["loss"] is None] == [], "no loss showed it"
    assert RunFolder(tmp_path).steps() == [2]
    assert (tmp_path / "last").resolve().name == "step-00000002"
    assert first_unsound(load_training(tmp_path / "last").tensors) is None


@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=1e38), MuonConfig(lr=1e38)], ids=["adamw", "muon"])
@pytest.mark.parametrize("every", [1, 250])
def test_a_rate_beyond_all_bounds_leaves_no_checkpoint_and_says_so(tmp_path, optimizer, every):
    config = CONFIG.replace(optimizer=optimizer, checkpoint_every=every, schedule=ScheduleConfig(warmup=0))
    with pytest.raises(TrainingError, match=r"not finite.*There is no checkpoint yet\. Try a lower --lr"):
        begin(tmp_path / "run", config)
    assert RunFolder(tmp_path / "run").steps() == []


@pytest.mark.parametrize("how", ["interrupted", "time", "finished"])
def test_however_a_run_ends_it_does_not_end_on_a_ruined_checkpoint(tmp_path, how):
    ticks = itertools.count()
    timed = {"minutes": 0.01, "clock": lambda: 0.02 * next(ticks)} if how == "time" else {}
    made = recorded_in(tmp_path, steps=5 if how == "finished" else 10**6, **timed)
    made.observers = [Ruins(made, 5, float("nan"), presses_ctrl_c=how == "interrupted")]
    with pytest.raises(TrainingError, match=r"After step \d+ unread is not finite.*There is no checkpoint yet"):
        made.run()
    assert RunFolder(tmp_path).steps() == []


def test_nothing_goes_on_from_a_checkpoint_that_is_not_finite(tmp_path):
    begin(tmp_path / "run", CONFIG.replace(steps=4))
    last = (tmp_path / "run" / "last").resolve()
    model, tokenizer = load(last)
    with torch.no_grad():
        model.embed.weight[-1, -1] = float("nan")
    save(last, model, tokenizer, load_training(last))
    with pytest.raises(CheckpointError, match=r"newest checkpoint embed\.weight is not finite.*Delete"):
        resume(tmp_path / "run", data=stream(), device="cpu")
    with pytest.raises(CheckpointError, match=r"embed\.weight is not finite\. Begin from another"):
        init_from(last, build(model.config))


def test_huge_numbers_are_finite_and_whole_numbers_and_nothing_are_not_asked():
    huge, half = (torch.full((4, 4), torch.finfo(d).max, dtype=d) for d in (torch.float32, torch.bfloat16))
    sound = {"huge": huge, "half": half, "none": torch.empty(0), "ids": torch.arange(3)}
    assert first_unsound(sound) is None
    assert first_unsound({}) is None
    assert first_unsound({**sound, "broken": torch.tensor([1.0, float("nan")]).bfloat16()}) == "broken"
