"""The oscillator family: sizes to the integer, organs silent when new, and what holds with all of them open."""

import pytest
import torch
from family_example import QUAZIMOTO, logits_of, tokens_of

from positronic.config import override
from positronic.errors import ConfigError
from positronic.models import PRESETS, build, mixer_only, preset
from positronic.models.quazimoto import positronic_144m
from positronic.observe import describe

small, opened = QUAZIMOTO.small, QUAZIMOTO.opened
TABLE = {
    "embed": 12_681_216,
    "attention": 15_741_440,
    "kuramoto": 62_187_550,
    "phase_attention": 1_129_020,
    "engram": 7_077_888 + 1_748_250,
    "specialists": 6_691_370,
    "ring_controller": 364,
    "hrm": 7_080_193,
    "moe": 17_698_560,
    "mtp": 9_440_256,
    "jepa": 2_360_064,
    "head": 769,
}
"""Of the published model, part by part."""
FAMILY = [name for name in PRESETS if name.startswith("positronic")]
MATCHED = {
    "positronic-144m": "control-144m",
    "positronic-144m-mixer-only": "control-91m",
    "positronic-15m": "tinygpt-15m",
    "positronic-15m-mixer-only": "control-12m",
    "positronic-tiny": "control-tiny",
    "positronic-tiny-mixer-only": "control-tiny-mixer",
}


def test_the_published_model_has_every_parameter_of_its_table():
    found = describe(positronic_144m())
    assert {k: v for k, v in found.groups.items() if v} == TABLE
    assert found.total == sum(TABLE.values()) == 143_836_940
    assert found.active == 132_036_620


def test_the_oscillators_begin_as_published():
    """Couplings of neighbours, no lag, a weak centre that turns."""
    bank = build(preset("positronic-tiny"), 1).trunk[1].mixer
    couplings = torch.eye(4) + 0.25 * (torch.eye(4).roll(1, 0).tril() + torch.eye(4).roll(-1, 0).triu())
    assert torch.equal(bank.coupling, couplings)
    for name, value in {"lag": 0, "centre": 0.1, "centre_phase": 0, "centre_speed": 0.5}.items():
        assert torch.equal(getattr(bank, name), torch.full_like(getattr(bank, name), value)), name


def test_a_bank_that_is_closed_learns_nothing():
    """Its gate begins open, so that it needs no leak."""
    model = build(preset("positronic-tiny"), 1)
    bank = model.trunk[1].mixer
    torch.nn.init.zeros_(bank.gate.g)
    model(tokens_of(1, 8)).hidden.square().sum().backward()
    assert bank.gate.g.grad != 0
    assert not bank.down.weight.grad.any()


@pytest.mark.parametrize("name", FAMILY)
def test_what_describe_counts_is_what_is_built(name):
    config = preset(name)
    model = build(config, device="meta")
    assert describe(config).total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", FAMILY)
def test_every_preset_has_a_control_within_one_per_cent(name):
    ours, control = describe(preset(name)), describe(preset(MATCHED[name]))
    assert abs(control.total / ours.total - 1) < 0.01, (ours.total, control.total)
    assert ours.config.vocab_size == control.config.vocab_size
    assert ours.config.context == control.config.context


ORGANS = {
    "phase_seed": lambda c: c.replace(oscillators=c.oscillators.replace(phase_seed=None)),
    "controller": lambda c: c.replace(oscillators=c.oscillators.replace(controller=None)),
    **{
        f"injection {i}": lambda c, i=i: c.replace(
            oscillators=c.oscillators.replace(
                injections=c.oscillators.injections[:i] + c.oscillators.injections[i + 1 :]
            )
        )
        for i in range(3)
    },
    "hrm": lambda c: c.replace(refiners=c.refiners[1:]),
    "moe": lambda c: c.replace(refiners=c.refiners[:1]),
    "drafts": lambda c: c.replace(drafts=None),
    "latents": lambda c: c.replace(latents=None),
}


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 3, 17])
@pytest.mark.parametrize("organ", [*ORGANS, "all"])
def test_a_new_organ_changes_no_bit(organ, length):
    whole = small()
    without = mixer_only(whole) if organ == "all" else ORGANS[organ](whole)
    tokens = tokens_of(2, length)
    assert torch.equal(logits_of(build(whole), tokens), logits_of(build(without), tokens))


@torch.no_grad()
@pytest.mark.parametrize(
    "organ", ["phase_seed", "controller", "injection 0", "injection 1", "injection 2", "hrm", "moe"]
)
def test_an_open_organ_is_wired(organ):
    whole = small()
    model, without = opened(build(whole)), build(ORGANS[organ](whole))
    ours = model.state_dict()
    kept = {name: ours[name] for name in without.state_dict() if name in ours}
    if organ.startswith("injection"):
        index = int(organ[-1])
        kept = {name: ours[renumbered(name, index)] for name in without.state_dict()}
    if organ == "hrm":
        kept = {name: ours[name.replace("trunk.4.", "trunk.5.")] for name in without.state_dict()}
    without.load_state_dict(kept)
    tokens = tokens_of(2, 17)
    assert (logits_of(model, tokens) - logits_of(without.eval(), tokens)).abs().max() > 1e-4


def renumbered(name: str, index: int) -> str:
    """The name in the whole model of a parameter in a model that lacks injection `index`."""
    head, dot, tail = name.partition("injections.")
    if not dot:
        return name
    number, _, rest = tail.partition(".")
    return f"{head}injections.{int(number) + (int(number) >= index)}.{rest}"


def test_rings_without_slots_and_heads_beyond_the_context_are_refused():
    with pytest.raises(ConfigError, match="slot"):
        build(override(small(), ["oscillators.rings=[4,8]"]))
    with pytest.raises(ConfigError, match="rings"):
        override(small(), ["oscillators.rings=[]"])
    with pytest.raises(ConfigError, match="at most 32"):
        override(small(), ["drafts.heads=40"])
    with pytest.raises(ConfigError, match="longer context"):
        override(small(), ["drafts.heads=64"])
