"""The refinement organ: its size, its silence, its definition, and what the first step owes to no token."""

import pytest
import torch
from torch.nn import functional as F

from positronic.errors import ConfigError
from positronic.state import Step
from positronic.traits.hrm import HRMConfig

D, HIDDEN = 32, 48


def lively(steps: int = 3):
    organ = HRMConfig(hidden=HIDDEN, steps=steps).build(D)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in organ.named_parameters():
            p.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=generator)
        organ.gate.g.fill_(0.5493)
    return organ


def run(organ, x):
    tokens = torch.zeros(x.shape[:2], dtype=torch.long)
    return organ(x, Step(tokens, tokens)).y


def vectors(seed: int = 0):
    return torch.randn(2, 7, D, generator=torch.Generator().manual_seed(seed))


def by_definition(organ, x, steps):
    """The equations with the joined vector: one product over [RMSNorm(z); RMSNorm(x)] in every step."""
    joined = torch.cat([organ.recall.weight, organ.inject.weight], 1)
    z = organ.start.expand_as(x)
    for _ in range(steps):
        c = torch.cat([organ.latent_norm(z), organ.norm(x)], -1)
        g, a, b = F.linear(c, joined).split([D, HIDDEN, HIDDEN], -1)
        z = z + torch.sigmoid(g + 2) * F.linear(F.silu(a) * b, organ.down.weight)
    return torch.tanh(organ.gate.g) * (z - organ.start)


def test_it_has_the_specified_size():
    assert sum(p.numel() for p in HRMConfig().build(768).parameters()) == 7_080_193


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_it_computes_its_definition(steps):
    organ, x = lively(steps).double(), vectors().double()
    assert (run(organ, x) - by_definition(organ, x, steps)).abs().max() < 1e-12


def test_a_new_organ_is_silent_and_its_way_down_is_the_first_to_learn():
    organ, x = HRMConfig(hidden=HIDDEN).build(D), vectors()
    y = run(organ, x)
    assert torch.equal(y, torch.zeros_like(x))
    (x + y).square().sum().backward()
    assert organ.down.weight.grad.norm() > 0
    with torch.no_grad():
        organ.down.weight -= 1e-2 * organ.down.weight.grad
    organ.zero_grad()
    (x + run(organ, x)).square().sum().backward()
    assert not [name for name, p in organ.named_parameters() if not p.grad.norm() > 0]


def test_where_it_starts_does_not_show_while_it_adds_nothing():
    organ, x = HRMConfig(hidden=HIDDEN).build(D), vectors()
    with torch.no_grad():
        organ.start += 100
    assert run(organ, x).abs().max() == 0


def test_no_steps_are_the_identity():
    assert run(lively(steps=0), vectors()).abs().max() == 0


def test_what_it_adds_is_weighed_by_nine_tenths_at_the_start():
    assert torch.tanh(HRMConfig(hidden=HIDDEN).build(D).gate.g).item() == pytest.approx(0.9)


def test_it_compiles_without_a_break():
    organ, x = lively(), vectors()
    organ.compile(fullgraph=True, backend="aot_eager")
    assert (run(organ, x) - by_definition(organ, x, 3)).abs().max() < 1e-5


@pytest.mark.parametrize("settings", [{"hidden": 0}, {"steps": -1}])
def test_impossible_settings_are_errors(settings):
    with pytest.raises(ConfigError, match="hrm has"):
        HRMConfig(**settings)
