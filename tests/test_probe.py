import pytest
import torch
from torch import nn

import positronic.probe
from positronic.errors import ConfigError
from positronic.probe import Probe, capture, replace, summarise
from positronic.state import ForwardOptions, Step


class Organ(nn.Module):
    def forward(self, x, step):
        return step.tap(self, "signal", x + 1)


def watched(verbs):
    model = nn.ModuleDict({"a": Organ(), "b": Organ()})
    probe = Probe(model, verbs)
    tokens = torch.zeros(1, 1, dtype=torch.long)
    step = Step(tokens, tokens, options=ForwardOptions(probe=probe))
    x = torch.ones(2)
    return probe, model["b"](model["a"](x, step), step)


def test_capture_records_what_passes_and_changes_nothing():
    probe, y = watched({"a:*": capture})
    assert y.tolist() == [3, 3]
    assert {k: [t.tolist() for t in v] for k, v in probe.seen.items()} == {"a:signal": [[2, 2]]}


def test_replace_silences_an_organ_and_later_taps_see_it():
    probe, y = watched({"a:signal": replace(torch.zeros_like), "*": summarise(lambda x: float(x.sum()))})
    assert y.tolist() == [1, 1]
    assert probe.seen == {"a:signal": [0.0], "b:signal": [2.0]}


def test_a_tap_of_another_model_is_refused():
    tokens = torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(ConfigError, match="outside the probed model"):
        Organ()(torch.ones(1), Step(tokens, tokens, options=ForwardOptions(probe=Probe(nn.ModuleDict(), {}))))


def test_the_example_of_its_page_runs():
    """The lines that the module's docstring shows."""
    from positronic.models import build, preset

    shown = [line.partition("->")[0].strip() for line in (positronic.probe.__doc__ or "").splitlines()]
    lines = [line for line in shown if line.startswith(("probe =", "model("))]
    names = {"model": build(preset("tinygpt-tiny")), "tokens": torch.tensor([[1, 2, 3]])}
    names |= {"Probe": Probe, "ForwardOptions": ForwardOptions, "capture": capture}
    exec("\n".join(lines), names)
    assert len(names["probe"].seen["trunk.1.mixer:hidden"][0][0]) == 3
