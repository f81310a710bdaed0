"""Health reads memories, experts and the loop of a Chimera, and names what was planted in each."""

import pytest
import torch
from chimera_example import small_chimera

from laws import enliven
from positronic.models import build
from positronic.nn.loop import LoopConfig
from positronic.observe import health
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions

ROWS = torch.randint(8, 64, (3, 40), generator=torch.Generator().manual_seed(0))
TITANS = small_chimera().titans
PLANTED = {
    "brief memory",
    "faint writes",
    "floored normaliser",
    "hemmed memory",
    "collapsed experts",
    "unused expert",
    "idle iteration",
}


def small(trust: float = 0.1, exit_below: float = 1e-9):
    titans = TITANS.replace(memory=TITANS.memory.replace(trust=trust))
    model = build(small_chimera(titans=titans, looping=LoopConfig(exit_below=exit_below)), 0)
    with torch.no_grad():
        model.trunk[2].mixer.input_bias.fill_(4.0)  # a new one writes little
    return model.eval()


def named(model) -> dict[str, list[str]]:
    """What was planted, and where."""
    found = health(model, ROWS, steps=100).findings()
    return {name: [line.place for line in lines] for name, lines in found.items() if name in PLANTED}


def forget(model):
    model.trunk[0].mixer.a_log.fill_(8.0)
    model.trunk[0].mixer.dt_bias.fill_(5.0)


def write_nothing(model):
    model.embed.weight[:, 0] = 1.0  # what all tokens have in common
    model.trunk[0].mixer.gates.weight.zero_()[:, 0] = -5.0


def shut(model):
    model.trunk[2].mixer.input_bias.fill_(-40.0)


def collapse(model):
    model.embed.weight[:, 0] = 1.0
    model.trunk[3].mixer.router.weight.zero_()[:2, 0] = 5.0


def starve(model):
    model.trunk[3].mixer.balance.bias[0] = -10.0


def test_nothing_of_it_is_said_of_a_new_model():
    assert not named(small())


@pytest.mark.parametrize(
    ("plant", "name", "place"),
    [
        (forget, "brief memory", "gated delta"),
        (write_nothing, "faint writes", "gated delta"),
        (shut, "floored normaliser", "mlstm"),
        (collapse, "collapsed experts", "experts of layer 1"),
        (starve, "unused expert", "experts of layer 1"),
    ],
)
def test_what_is_planted_is_named(plant, name, place):
    model = small()
    with torch.no_grad():
        plant(model)
    assert named(model)[name] == [place]


def test_a_memory_whose_every_move_is_cut_is_named():
    assert named(small(trust=1e-7)) == {"hemmed memory": ["deep memory"]}


def test_an_iteration_that_changes_less_than_an_exit_asks_is_named():
    assert named(small(exit_below=100.0)) == {"idle iteration": ["loop"]}


def test_readings_are_those_of_the_tensors_that_pass():
    model = enliven(small(), 0.1)
    probe = Probe(model, {"*:share": capture, "walk:*": capture, "trunk.0.mixer:strength": capture, "*:heads": capture})
    with torch.no_grad():
        model(ROWS, options=ForwardOptions(probe=probe))
    read = {(line.organ, line.reading): line.values for line in health(model, ROWS, steps=100).lines}
    (share,) = probe.seen["trunk.4.mixer.memory:share"]
    assert share.shape == (3, 10, 2)
    cut = (share < 1).float().mean((0, 1)).tolist()
    assert read["deep_memory", "share of chunks that the trust region cut, each head"] == pytest.approx(cut)
    strength = probe.seen["trunk.0.mixer:strength"][0].mean((0, 1)).tolist()
    assert read["gated_delta", "strength of writes"] == pytest.approx(strength, rel=1e-5)
    change = probe.seen["walk:change"][0].mean((0, 1)).tolist()
    assert read["loop", "relative change by each iteration"] == pytest.approx(change, rel=1e-5)
    decay = probe.seen["walk:decay"][0]
    assert read["loop", "smallest and largest A"] == pytest.approx([decay.min().item(), decay.max().item()])
    for place, organ in (("trunk.0.mixer", "gated_delta"), ("trunk.2.mixer", "mlstm"), ("trunk.4.mixer", "titans")):
        heads = probe.seen[f"{place}:heads"][0].square().mean((0, 1, 3)).sqrt().tolist()
        assert read[organ, "size of each head"] == pytest.approx(heads, rel=1e-5)
