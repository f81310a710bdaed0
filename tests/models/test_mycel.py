"""The colony family: sizes to the integer, organs silent when new, and what its colonies do inside a model."""

import json

import pytest
import torch
from family_example import BYTES, EOT, MYCEL, logits_of, tokens_of
from torch.nn import functional as F

from positronic.checkpoint import load_model, save
from positronic.cli import main
from positronic.config import override
from positronic.data import TokenBatch
from positronic.errors import ConfigError
from positronic.kernels.colony import grow
from positronic.kernels.soft_clamp import soft_clamp
from positronic.mixers.colony import ColonyConfig
from positronic.models import PRESETS, build, mixer_only, preset
from positronic.models.mycel import mycel_79m, mycel_tiny
from positronic.nn.init import initialize
from positronic.observe import describe
from positronic.observe.ablate import organs_of
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions, Step
from positronic.text import byte_tokenizer
from positronic.train import NextTokenConfig
from positronic.traits.fractal_phase import FractalPhaseConfig
from positronic.traits.stations import StationsConfig

TABLE = {
    "embed": 12_681_216,
    "attention": 15_741_440,
    "colony": 9_593_010,
    "stations": 4_828_330,
    "hrm": 7_080_193,
    "moe": 17_698_560,
    "mtp": 9_440_256,
    "jepa": 2_360_064,
    "head": 769,
}
"""Of the published model, part by part."""
FAMILY = [name for name in PRESETS if name.startswith("mycel")]
MATCHED = {
    "mycel-79m": "control-79m",
    "mycel-79m-mixer-only": "control-38m",
    "mycel-10m": "control-10m",
    "mycel-10m-mixer-only": "control-7m",
    "mycel-tiny": "control-mycel-tiny",
    "mycel-tiny-mixer-only": "control-mycel-tiny-mixer",
}
ORGANS = {
    "phase_seed": lambda c: c.replace(colony=c.colony.replace(phase_seed=None)),
    "stations": lambda c: c.replace(colony=c.colony.replace(stations=None)),
    "hrm": lambda c: c.replace(refiners=c.refiners[1:]),
    "moe": lambda c: c.replace(refiners=c.refiners[:1]),
    "drafts": lambda c: c.replace(drafts=None),
    "latents": lambda c: c.replace(latents=None),
}
SEEDED = ColonyConfig(tips=12, centres=6, phase_seed=FractalPhaseConfig(levels=4), stations=StationsConfig(dim=16))


def test_the_published_model_has_every_parameter_of_its_table():
    found = describe(mycel_79m())
    assert {k: v for k, v in found.groups.items() if v} == TABLE
    assert found.total == sum(TABLE.values()) == 79_423_838
    assert found.state_fixed - describe(ORGANS["stations"](mycel_79m())).state_fixed == 10 * 4 * 7168


def test_the_mixer_alone_has_the_size_of_the_specification():
    assert round(describe(mixer_only(mycel_79m())).total, -5) == 38_000_000
    assert 9_900_000 < describe(preset("mycel-10m")).total < 10_100_000
    assert 2_550_000 < describe(mycel_tiny()).total < 2_650_000


@pytest.mark.parametrize("name", FAMILY)
def test_every_preset_has_a_control_within_one_per_cent(name):
    ours, control = describe(preset(name)), describe(preset(MATCHED[name]))
    assert abs(control.total / ours.total - 1) < 0.01, (ours.total, control.total)
    assert ours.config.vocab_size == control.config.vocab_size
    assert ours.config.context == control.config.context
    assert ours.config.attention == control.config.attention


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 3, 17])
@pytest.mark.parametrize("organ", [*ORGANS, "all"])
def test_a_new_organ_changes_no_bit(organ, length):
    whole = MYCEL.small()
    without = mixer_only(whole) if organ == "all" else ORGANS[organ](whole)
    tokens = tokens_of(2, length)
    assert torch.equal(logits_of(build(whole), tokens), logits_of(build(without), tokens))


@torch.no_grad()
@pytest.mark.parametrize("organ", ["fractal_phase", "stations", "hrm", "moe", "colony"])
def test_every_organ_can_be_silenced_and_is_missed(organ):
    model, tokens = MYCEL.opened(build(MYCEL.small())), tokens_of(2, 17)
    verbs = organs_of(model)[organ]
    assert len(verbs) == (1 if organ in ("hrm", "moe") else model.config.n_layers)
    without = logits_of(model, tokens, probe=Probe(model, verbs))
    assert (without - logits_of(model, tokens)).abs().max() > 1e-4


def test_the_bank_tells_organs_that_a_tip_has_three_axes():
    with pytest.raises(ConfigError, match="levels"):
        build(override(MYCEL.small(), ["colony.tips=3"])), "9 columns, 4 levels"
    with pytest.raises(ConfigError, match="1 or more of each"):
        override(MYCEL.small(), ["colony.tips=0"])
    fitted = MYCEL.small().fitted(BYTES, EOT)
    assert len(fitted.colony.phase_seed.sha256) == 64
    assert build(fitted).shared["fractal_phase"].table.shape == (BYTES, 3 * 24)


def seen_of(model, tokens) -> dict[str, list]:
    probe = Probe(model, {"*": capture})
    model(tokens, options=ForwardOptions(probe=probe))
    return probe.seen


def path_of(colony, seen) -> torch.Tensor:
    """(B, T, steps + 1, N, 3) where the tips were, grown again from what was tapped."""
    c, first = colony.config, (seen["first_positions"], seen["first_growth"])
    return torch.stack([grow(*first, colony.field(), steps, c.dt).position for steps in range(c.steps + 1)], 2)


@torch.no_grad()
def test_taps_show_the_colony_grow():
    model, tokens = MYCEL.loud(MYCEL.opened(build(MYCEL.small()))), tokens_of(2, 9)
    seen = {name.removeprefix("trunk.1.mixer:"): x[0] for name, x in seen_of(model, tokens).items()}
    path = path_of(model.trunk[1].mixer, seen)
    assert path.shape == (2, 9, 4, 24, 3)
    assert torch.equal(path[:, :, -1], seen["positions"])
    inside = (path.norm(dim=-1) < 0.75).all(2)  # (B, T, N)
    steps = path.diff(dim=2).norm(dim=-1).amax(2)[inside]
    assert 0 < steps.min() <= steps.max() < 0.25 * 0.5 + 1e-6
    assert seen["density"].shape == (2, 9, 24)
    assert seen["growth"].norm(dim=-1).max() < 0.5 + 1e-6


@torch.no_grad()
def test_what_is_read_out_is_tip_by_tip_position_growth_and_density():
    """The order of z is part of the checkpoint's format."""
    model, tokens = MYCEL.opened(build(ORGANS["stations"](MYCEL.small()))), tokens_of(1, 5)
    seen, colony = seen_of(model, tokens), model.trunk[1].mixer
    p, g, rho = (seen[f"trunk.1.mixer:{name}"][0] for name in ("positions", "growth", "density"))
    y = torch.zeros(1, 5, 48)
    for i in range(24):
        columns = colony.readout.weight[:, 7 * i : 7 * i + 7]
        y += torch.cat([p[:, :, i], g[:, :, i], rho[:, :, i, None]], -1) @ columns.T
    branch = soft_clamp(colony.gate(y))
    assert (branch - seen["trunk.1:branch"][0]).abs().max() < 1e-6


@torch.no_grad()
def test_the_seed_moves_a_tokens_tips_by_a_quarter_of_its_sines():
    model, tokens = MYCEL.opened(build(MYCEL.small())), tokens_of(1, 5)
    seen = seen_of(model, tokens)["trunk.1.mixer:phase_seed"][0]
    table = model.shared["fractal_phase"].table[tokens].float() * torch.pi / 2**13
    assert (seen - 0.5 * 0.25 * table.sin()).abs().max() < 1e-6


@torch.no_grad()
def test_a_colony_behind_a_closed_gate_says_exactly_nothing():
    colony = SEEDED.replace(phase_seed=None).build(48).eval()
    colony.gate.g.zero_()
    tokens = torch.zeros(2, 9, dtype=torch.long)
    assert not colony(torch.randn(2, 9, 48), Step.of(tokens)).y.any()


def new_colony():
    """Of the published size, drawn from a stream of its own."""
    colony = ColonyConfig().build(768)
    initialize(colony, seed=1)
    return colony


@torch.no_grad()
def test_a_new_colony_fills_the_ball_as_specified():
    colony = new_colony()
    probe = Probe(colony, {"*": capture})
    tokens = torch.zeros(1, 400, dtype=torch.long)
    x = torch.randn(1, 400, 768, generator=torch.Generator().manual_seed(0))
    colony(x, Step(tokens, tokens, options=ForwardOptions(probe=probe)))
    first = probe.seen[":first_positions"][0]
    assert first.std() == pytest.approx(0.33, abs=0.02)
    assert (first.norm(dim=-1) > 0.75).float().mean() == pytest.approx(0.16, abs=0.03)
    field = colony.field()
    assert field.centres.abs().max() <= 0.6
    assert torch.cdist(field.centres, field.centres).add(torch.eye(16)).min() > 0.1
    for value, expected in zip(field[1:], (0.5, -0.5, 0.8, 0.5), strict=True):
        assert (value - expected).abs().max() < 1e-6
    assert colony.width[0].item() == pytest.approx(-0.7096, abs=1e-4)


@torch.no_grad()
def test_growth_against_density_spreads_the_tips():
    """With trop at its start the energy after growth is lower than before it, on average over tokens."""
    colony = new_colony()
    probe, x = Probe(colony, {"*": capture}), torch.randn(1, 100, 768, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(1, 100, dtype=torch.long)
    colony(x, Step(tokens, tokens, options=ForwardOptions(probe=probe)))
    path = path_of(colony, {name[1:]: x[0] for name, x in probe.seen.items()})
    field = colony.field()
    gap = (field.centres[:, None] - path[..., None, :, :]).square().sum(-1)  # (1, T, G + 1, F, N)
    energy = torch.exp(-gap / (2 * field.width[:, None] ** 2)).mean(-1).square().sum(-1).mean((0, 1))
    assert energy[-1] < energy[0]


def test_under_autocast_tips_grow_in_single_precision():
    model, tokens = MYCEL.opened(build(MYCEL.small())), tokens_of(2, 40)
    with torch.autocast("cpu", torch.bfloat16):
        seen = seen_of(model, tokens)
        loss = model.logits(model(tokens).hidden).float().square().mean()
    loss.backward()
    for name in ("first_positions", "positions", "growth", "density"):
        assert seen[f"trunk.1.mixer:{name}"][0].dtype == torch.float32
    assert seen["trunk.1.mixer.stations:engagement"][0].dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_compiled_block_is_one_graph_and_equals_eager():
    torch.manual_seed(0)
    colony, x = SEEDED.replace(phase_seed=None).build(48), torch.randn(2, 40, 48)
    MYCEL.opened(colony)
    tokens = torch.zeros(2, 40, dtype=torch.long)

    def loss(run) -> list[torch.Tensor]:
        colony.zero_grad()
        y = run(x, Step(tokens, tokens)).y
        y.square().sum().backward()
        return [y.detach(), *(p.grad.clone() for p in colony.parameters())]

    eager = loss(colony)
    compiled = loss(torch.compile(colony, fullgraph=True, dynamic=False, backend="aot_eager"))
    for a, b in zip(compiled, eager, strict=True):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_a_checkpoint_gives_back_every_bit_and_its_seed_verifies(tmp_path, capsys):
    tokenizer = byte_tokenizer()
    model = MYCEL.opened(build(MYCEL.small().fitted(BYTES, EOT), seed=1))
    folder = save(tmp_path / "mycel", model, tokenizer)
    loaded, tokens = load_model(folder).eval(), tokens_of(2, 17)
    with torch.no_grad():
        assert torch.equal(logits_of(loaded, tokens), logits_of(model, tokens))
    assert torch.equal(loaded.trunk[1].mixer.stations.anchors, model.trunk[1].mixer.stations.anchors)
    assert main(["fractal", "verify", str(folder), "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert (table["name"], table["columns"], table["levels"]) == ("shared.fractal_phase", 3 * 24, 4)
    assert table["pinned"]
    assert table["sha256"] == model.config.colony.phase_seed.sha256


def test_new_organs_learn_from_the_first_step():
    """All but what stands behind a matrix of zeros: HRM, experts and draft heads."""
    model = build(MYCEL.small(vocab_size=BYTES, boundary_id=EOT))
    batch = TokenBatch.of(tokens_of(2, 40), boundary_id=EOT)
    objective = NextTokenConfig().build()
    objective(model, batch, objective.counts(batch)).total.backward()
    for name, p in model.named_parameters():
        assert p.grad.isfinite().all(), name
        if not name.startswith(("trunk.4.", "trunk.5.", "drafts.")):
            assert p.grad.any(), name
    for block in list(model.trunk)[1:4:2]:
        assert block.mixer.stations.gate.g.grad.all()
        assert block.mixer.seed_gate.g.grad != 0


@pytest.mark.slow
def test_a_model_that_has_learned_a_rule_keeps_a_finite_tropism_and_spreads_its_tips():
    """Each token says which comes next: 300 steps bring the loss far below a guess's."""
    torch.manual_seed(0)
    model, rule = build(MYCEL.small()), torch.randperm(292) + 8
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        tokens = torch.randint(8, 300, (8, 1))
        for _ in range(23):
            tokens = torch.cat([tokens, rule[tokens[:, -1:] - 8]], 1)
        guesses = logits_of(model, tokens)[:, :-1]
        loss = F.cross_entropy(guesses.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.0, loss.item()
    tropisms = torch.stack([block.mixer.tropism for block in list(model.trunk)[1:4:2]])
    assert tropisms.isfinite().all()
