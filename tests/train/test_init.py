"""Starting from another run's weights: exact where parts are shared, silent where they are new."""

import pytest
import torch
from killed_run import CONFIG, TOKENIZER, begin
from torch import nn
from train_example import small_config

from positronic.checkpoint import load_model
from positronic.errors import CheckpointError
from positronic.lm import MixerOutput
from positronic.mixers.swiglu import SwiGLU, SwiGLUConfig
from positronic.models import build
from positronic.nn.gate import Gate
from positronic.nn.stack import Residual
from positronic.train import init_from


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("old") / "run"
    begin(run, CONFIG.replace(steps=2))
    return run / "last"


class Organ(nn.Module):
    """SwiGLU behind a gate that is closed, or open, when new."""

    def __init__(self, start):
        super().__init__()
        self.inner, self.gate = SwiGLU(SwiGLUConfig(hidden=8), 32), Gate(start)

    def init_state(self, batch, capacity=0):
        return None

    def forward(self, x, step, state=None):
        return MixerOutput(self.gate(self.inner(x, step).y))


def with_organ(start):
    model = build(small_config(TOKENIZER.vocab_size), seed=5)
    model.trunk.append(Residual(Organ(start)))
    return model


def test_the_same_model_takes_over_every_weight(folder):
    model = build(small_config(TOKENIZER.vocab_size), seed=5)
    init_from(folder, model)
    for name, values in load_model(folder).state_dict().items():
        assert torch.equal(model.state_dict()[name], values), name


def test_a_part_that_is_silent_when_new_may_be_added(folder):
    model = with_organ(start=0.0)
    init_from(folder, model)
    tokens = torch.arange(12)[None] * 3
    ours, theirs = (m.logits(m(tokens).hidden) for m in (model.eval(), load_model(folder)))
    assert torch.equal(ours, theirs)


def test_a_part_that_speaks_when_new_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"trunk\.4\.mixer.*silent when new"):
        init_from(folder, with_organ(start=1.0))


@pytest.mark.parametrize(
    "settings", [{"d_model": 16}, {"n_layers": 1}, {"vocab_size": 40}], ids=["narrower", "shallower", "fewer tokens"]
)
def test_a_model_that_does_not_contain_the_other_is_refused(folder, settings):
    with pytest.raises(CheckpointError, match="--init"):
        init_from(folder, build(small_config(TOKENIZER.vocab_size).replace(**settings)))
