"""Health names what was planted and nothing else; of what is well, and of what is new, it says so."""

import copy
import json
import math

import pytest
import torch
from health_example import TOKENS, small, texts, trained

from positronic.models import build
from positronic.observe import health, sample_rows
from positronic.observe.health import registry
from positronic.observe.health.findings import CLOSED, FINDINGS
from positronic.observe.health.organs import collapsed, evenness
from positronic.observe.health.registry import Reading
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions

ROWS = sample_rows([TOKENS.encode(text) for text in texts(60, seed=99)], TOKENS.eot_id, 32)[:16]
PLANTED = {"dead gate", "NaN weight", "collapsed router", "saturated gate"}


@pytest.fixture(scope="module")
def short_run():
    model, part = trained(0)
    return model, part.meta["counters"]["step"]


@pytest.fixture
def model(short_run):
    return copy.deepcopy(short_run[0])


def named(model, steps=1000, **more) -> dict[str, list[str]]:
    """Findings and where."""
    return {
        name: [line.place for line in lines]
        for name, lines in health(model, ROWS, steps=steps, **more).findings().items()
    }


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 10))])
def test_a_healthy_short_run_raises_none_of_what_can_be_planted(seed, short_run):
    found = health(short_run[0] if seed == 0 else trained(seed)[0], ROWS, steps=short_run[1])
    assert found.trained
    assert not PLANTED & found.findings().keys()
    assert found.verdict != "broken", found.findings()


def close(model):
    model.trunk[1].mixer.injections[1].gates[1].g.zero_()


def spoil(model):
    model.trunk[2].mixer.out[1].weight[3, 5] = float("nan")


def collapse(model):
    """One feature of every token stands out, and the router reads nothing else."""
    model.embed.weight[:, 0] = 100.0
    model.trunk[-1].mixer.router.weight.zero_()
    model.trunk[-1].mixer.router.weight[:2, 0] = 5.0


def saturate(model):
    model.trunk[3].mixer.gate.g.fill_(5.0)


@pytest.mark.parametrize(
    ("plant", "name", "place"),
    [
        (close, "dead gate", "engram of layer 1"),
        (spoil, "NaN weight", "attention of layer 2"),
        (collapse, "collapsed router", "moe"),
        (saturate, "saturated gate", "kuramoto of layer 2"),
    ],
)
def test_what_is_planted_is_named(model, plant, name, place):
    assert not PLANTED & named(model).keys()
    with torch.no_grad():
        plant(model)
    found = named(model)
    assert found[name] == [place]
    assert PLANTED & found.keys() == {name}


def test_an_infinite_weight_and_a_matrix_that_never_moved_have_their_own_names(model):
    with torch.no_grad():
        model.trunk[0].mixer.qkv.weight[0, 0] = math.inf
        model.trunk[-1].mixer.down.weight.zero_()
    found = named(model)
    assert found["infinite weight"] == ["attention of layer 1"]
    assert found["silent matrix"] == ["moe"]


@pytest.mark.parametrize("steps", [0, 19, None])
def test_a_new_model_is_not_broken(steps):
    found = health(build(small(), 3, tokenizer=TOKENS).eval(), ROWS, steps=steps)
    assert found.verdict == "ok"
    assert not found.trained
    gates = [line for line in found.lines if line.reading == "gates"]
    assert all(abs(x) < CLOSED for line in gates for x in line.values)


def test_weights_alone_say_that_they_were_trained(model):
    with torch.no_grad():
        close(model)
    assert named(model, steps=None) == named(model) == {"dead gate": ["engram of layer 1"]}


def test_a_closed_gate_is_dead_only_if_it_cannot_open(model):
    """It moved from its start, and whether gradient reaches it depends on what stands behind it."""
    organ = model.trunk[1].mixer.injections[0]
    with torch.no_grad():
        organ.gates[0].g.fill_(1e-6)
    assert named(model)["closed gate"] == ["phase attention of layer 1"]
    with torch.no_grad():
        organ.out[0].weight.zero_()
    found = named(model)
    assert found["dead gate"] == ["phase attention of layer 1"]
    assert "closed gate" not in found


def test_a_score_no_better_than_a_guess_is_said(model):
    class Score:
        tokens = bytes = 100
        bits_per_byte = math.log2(384)

    assert named(model, score=Score())["worse than a guess"] == ["head"]
    Score.bits_per_byte = 2.0
    assert "worse than a guess" not in named(model, score=Score())


def test_readings_are_those_of_the_tensors_that_pass(model):
    probe = Probe(model, {"trunk.1.mixer:phase": capture, "*:weights": capture, "trunk.3:branch": capture})
    with torch.no_grad():
        model(ROWS, options=ForwardOptions(probe=probe))
    read = {(line.organ, line.layer, line.reading): line.values for line in health(model, ROWS).lines}
    theta = probe.seen["trunk.1.mixer:phase"][0]
    order = [
        torch.polar(torch.ones_like(ring), ring).mean(-1).abs().mean().item()
        for ring in theta.split((4, 8, 16, 16), -1)
    ]
    assert read["kuramoto", 1, "order of each ring, after"] == pytest.approx(order, rel=1e-5)
    share = probe.seen["trunk.5.mixer:weights"][0].mean((0, 1)).tolist()
    assert read["moe", None, "share of each expert"] == pytest.approx(share, rel=1e-5)
    size = probe.seen["trunk.3:branch"][0].square().mean().sqrt().item()
    assert read["kuramoto", 2, "added to the stream"] == pytest.approx([size], rel=1e-5)
    assert read["engram", 1, "gates"] == pytest.approx(
        [gate.g.tanh().item() for gate in model.trunk[1].mixer.injections[1].gates]
    )


def test_every_organ_of_the_family_is_read(model):
    organs = {line.organ for line in health(model, ROWS).lines}
    assert organs >= {
        "attention", "kuramoto", "phase_attention", "engram", "specialists", "ring_controller", "hrm", "moe", "mtp",
        "jepa", "embed", "head", "trunk",
    }  # fmt: skip


def test_a_family_adds_readings_without_touching_the_core(model, monkeypatch):
    monkeypatch.setattr(registry, "READERS", registry.READERS)
    monkeypatch.setitem(registry.READERS, "hrm", [])

    @registry.reads("hrm", {"added": lambda hrm, x: x.abs().amax((0, 1, 2))[None]})
    def largest(hrm, seen):
        yield Reading("largest", registry.numbers(seen["added"]), "full store")

    (line,) = [line for line in health(model, ROWS, steps=1000).lines if line.reading == "largest"]
    assert (line.organ, line.verdict, line.finding) == ("hrm", "watch", "full store")
    assert line.values[0] > 0


def test_two_readers_of_one_tap_are_refused():
    with pytest.raises(AssertionError, match="two readers of moe"):
        registry.reads("moe", {"weights": lambda moe, x: x})(lambda moe, seen: [])


@pytest.mark.parametrize(
    ("share", "top", "expected"),
    [
        ([0.25, 0.25, 0.25, 0.25], 2, False),
        ([0.5, 0.5, 0.0, 0.0], 2, True),
        ([0.4, 0.4, 0.2, 0.0], 2, False),
        ([1.0, 0.0], 2, True),
        ([0.5, 0.5], 2, False),
        ([0.3, 0.3, 0.2, *[0.2 / 61] * 61], 2, True),
    ],
)
def test_a_router_has_collapsed_when_no_more_experts_live_than_one_token_needs(share, top, expected):
    assert collapsed(torch.tensor(share), top) is expected


def test_evenness_is_entropy_over_its_largest():
    shares = torch.tensor([[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0]])
    assert evenness(shares).tolist() == pytest.approx([0.5, 1.0, 0.0])


def test_rows_hold_texts_behind_their_marks_and_no_padding():
    rows = sample_rows([[1, 2, 3], [4, 5]], 9, context=3)
    assert rows.tolist() == [[9, 1, 2], [3, 9, 4]]
    assert sample_rows([[1, 2]], 9, context=8).tolist() == [[9, 1, 2]]


def test_json_holds_no_nan(model):
    with torch.no_grad():
        spoil(model)
    data = health(model, ROWS, steps=30).to_json()
    json.dumps(data, allow_nan=False)
    assert data["verdict"] == "broken"
    assert any(None in line["values"] for line in data["lines"])


def test_every_finding_says_what_to_do():
    assert all(finding.advice.endswith((".", "?")) for finding in FINDINGS.values())
