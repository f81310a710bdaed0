"""An organ switched off is an organ that is not there: its branch adds nothing, its current is 0, its wish neutral."""

import numpy as np
import pytest
import torch
from health_example import TOKENS as BYTES
from health_example import texts as sentences
from health_example import trained
from torch import nn

from positronic.config import Config
from positronic.data import Document
from positronic.errors import ConfigError, DataError
from positronic.eval import Score, bits_per_byte, compare, document_scores
from positronic.kernels.kuramoto import Modulation
from positronic.lm import MixerOutput
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.transformer import TransformerConfig
from positronic.nn.stack import Residual
from positronic.observe import Change, ablate, changes, mixers_of, organs_of, verdict
from positronic.probe import Probe, Tap, capture
from positronic.state import ForwardOptions
from positronic.text import byte_tokenizer

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))


class Part(nn.Module):
    """A module that taps `name` and says so by the kind of its config."""

    def __init__(self, config: Config | None, name: str, value: float = 2.0):
        super().__init__()
        self.config, self.name, self.value = config, name, value

    def forward(self, x, step):
        return step.tap(self, self.name, torch.full_like(x, self.value))

    @property
    def taps(self):
        organ = "fractal_phase" if self.name == "phase_seed" else ""
        return {self.name: Tap("its value", neutral if self.name == "modulation" else torch.zeros_like, organ)}


def neutral(x):
    return torch.tensor([1.0, 0.0, 1.0, 1.0]).expand_as(x)


def named(kind: str) -> Config:
    """A config of a kind that is not registered."""
    return type("Named", (Config,), {"kind": kind})()


class Bank(nn.Module):
    """A mixer with organs inside, each heard through its tap; what they tap is added to the stream as it is."""

    def __init__(self):
        super().__init__()
        self.config = named("bank")
        self.lookup, self.other = Part(named("lookup"), "current"), Part(named("other"), "late_current", 3.0)
        self.controller = Part(named("controller"), "modulation", 5.0)
        self.seed = Part(None, "phase_seed", 7.0)

    def init_state(self, batch, capacity=0):
        return None

    def forward(self, x, step, state=None):
        gain = self.controller(x[..., :4], step)
        y = self.lookup(x, step) + self.other(x, step) + self.seed(x, step)
        step.tap(self, "gain", gain)
        return MixerOutput(step.tap(self, "sum", y) * gain.sum(-1, keepdim=True))


def small(**changes):
    config = TransformerConfig(
        vocab_size=384,
        d_model=16,
        context=16,
        max_positions=32,
        n_layers=2,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=8, rank=None, rope_dims=4),
        channel=SwiGLUConfig(hidden=24),
    ).replace(**changes)
    model = build(config, 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() == 2 else 1)
    return model.eval()


@pytest.fixture
def model():
    return small()


@torch.no_grad()
def logits(model, probe=None):
    return model.logits(model(TOKENS, options=ForwardOptions(probe=probe)).hidden)


def test_without_its_mixers_a_model_is_the_model_that_has_none(model):
    bare = small()
    for block in list(bare.trunk)[1::2]:
        block.mixer.down.weight.data.zero_()
    assert torch.equal(logits(model, ablate(model, ["swiglu"])), logits(bare))
    for block in list(bare.trunk)[0::2]:
        block.mixer.out.weight.data.zero_()
    assert torch.equal(logits(model, ablate(model, ["attention", "swiglu"])), logits(bare))
    assert not torch.allclose(logits(model), logits(bare), atol=0.1)


def test_no_organ_off_changes_no_bit(model):
    assert torch.equal(logits(model, ablate(model, [])), logits(model))


@pytest.mark.parametrize(
    ("organ", "expected"),
    [("lookup", 10.0), ("other", 9.0), ("fractal_phase", 5.0), (None, 12.0)],
)
@torch.no_grad()
def test_an_organ_inside_a_mixer_is_silenced_at_its_own_tap(model, organ, expected):
    model.trunk.append(Residual(Bank()))
    probe = ablate(model, [organ] if organ else [])
    probe.verbs["trunk.4.mixer:sum"] = capture
    logits(model, probe)
    assert probe.seen["trunk.4.mixer:sum"][0].unique().tolist() == [expected]


@torch.no_grad()
def test_a_silent_controller_wishes_what_changes_nothing(model):
    model.trunk.append(Residual(Bank()))
    probe = ablate(model, ["controller"])
    probe.verbs["*:gain"] = capture
    logits(model, probe)
    gain, lag, centre, drive = probe.seen["trunk.4.mixer:gain"][0][0, 0].tolist()
    assert Modulation(gain, lag, centre, drive) == (1, 0, 1, 1)


def test_organs_are_named_by_the_kinds_of_this_model(model):
    assert list(organs_of(model)) == ["attention", "swiglu"]
    model.trunk.append(Residual(Bank()))
    assert list(organs_of(model)) == [
        "attention", "bank", "controller", "fractal_phase", "lookup", "other", "swiglu",
    ]  # fmt: skip
    assert list(organs_of(model)["attention"]) == ["trunk.0:branch", "trunk.2:branch"]


def test_an_organ_that_is_not_there_is_refused_with_those_that_are(model):
    with pytest.raises(ConfigError, match=r"no organ 'engram' .* it has attention, swiglu\."):
        ablate(model, ["swiglu", "engram"])
    with pytest.raises(ConfigError, match="no organ 'transformer'"):
        ablate(model, ["transformer"])


def test_bits_per_byte_are_those_of_the_model_without(model):
    """Padded rows and rows without padding, through the probe of `bits_per_byte`."""
    bare, tokenizer = small(), byte_tokenizer()
    for block in list(bare.trunk)[1::2]:
        block.mixer.down.weight.data.zero_()
    for texts in (["a text of some length", "short"], ["one length"]):
        documents = [Document(text, "here") for text in texts]
        off = bits_per_byte(model, tokenizer, documents, probe=ablate(model, ["swiglu"]))
        assert off == bits_per_byte(bare, tokenizer, documents)
        assert off != bits_per_byte(model, tokenizer, documents)
        watched = bits_per_byte(model, tokenizer, documents, probe=Probe(model, {}))
        assert watched == bits_per_byte(model, tokenizer, documents)


def test_the_scores_of_documents_add_up_to_that_of_all(model):
    texts = ["a text of some length, longer than a window", "", "short"]
    documents = [Document(text, "here") for text in texts]
    scores = document_scores(model, byte_tokenizer(), documents)
    assert [score.bytes for score in scores] == [43, 5]
    assert Score.total(scores) == bits_per_byte(model, byte_tokenizer(), documents)
    alone = bits_per_byte(model, byte_tokenizer(), documents[2:])
    assert scores[1].nats == pytest.approx(alone.nats, rel=1e-5)


def test_a_version_beside_the_model_scores_as_it_does_alone(model):
    documents = [Document("a text of some length, longer than a window", "here"), Document("short", "here")]
    probe = ablate(model, ["swiglu"])
    whole, versions = compare(model, byte_tokenizer(), documents, {"none": ablate(model, []), "swiglu": probe})
    assert whole == versions["none"].scores == document_scores(model, byte_tokenizer(), documents)
    assert (versions["none"].largest_change, versions["none"].flips) == (0.0, 0)
    assert versions["swiglu"].scores == document_scores(model, byte_tokenizer(), documents, probe=probe)
    assert versions["swiglu"].largest_change > 0.1
    assert 0 < versions["swiglu"].flips <= Score.total(whole).tokens


def test_a_layer_is_silenced_alone(model):
    """Without each of the two layers' SwiGLU is without SwiGLU at all; one of them is not."""
    mixers = mixers_of(model)
    assert [tuple(place) for place in mixers] == [("attention", 1), ("swiglu", 1), ("attention", 2), ("swiglu", 2)]
    bare = small()
    bare.trunk[3].mixer.down.weight.data.zero_()
    assert torch.equal(logits(model, mixers["swiglu", 2]), logits(bare))
    assert not torch.equal(logits(model, mixers["swiglu", 1]), logits(bare))


def test_documents_that_all_lose_alike_leave_no_doubt():
    n_bytes, nats = np.full(8, 10), np.full(8, 20.0)
    without = np.stack([nats + np.log(2), nats, nats - np.log(2)])
    found = changes(nats, without, n_bytes)
    assert [tuple(change) for change in found] == [pytest.approx([x] * 3, abs=1e-12) for x in (0.1, 0.0, -0.1)]
    assert [verdict(change) for change in found] == ["carries", "idle", "hurts"]


def test_the_interval_is_that_of_the_mean():
    """Equal sizes and normal losses: 1.96 standard errors either way; and the same every time."""
    random = np.random.default_rng(0)
    lost = random.normal(0.3, 1.0, 400)
    (change,) = changes(np.zeros(400), lost[None] * np.log(2), np.ones(400))
    error = lost.std() / 20
    assert change.bits_per_byte == pytest.approx(lost.mean())
    assert change.low == pytest.approx(lost.mean() - 1.96 * error, abs=0.1 * error)
    assert change.high == pytest.approx(lost.mean() + 1.96 * error, abs=0.1 * error)
    assert changes(np.zeros(400), lost[None] * np.log(2), np.ones(400)) == [change]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Change(0.06, 0.01, 0.1), "carries"),
        (Change(0.05, 0.01, 0.1), "helps"),
        (Change(0.3, -0.01, 0.6), "idle"),
        (Change(0.0, 0.0, 0.0), "idle"),
        (Change(4e-4, 3e-4, 5e-4), "idle"),
        (Change(-0.01, -0.02, -0.005), "hurts"),
        (Change(-0.01, -0.02, 0.0), "idle"),
    ],
)
def test_verdicts(change, expected):
    assert verdict(change) == expected


def test_too_few_documents_and_scores_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="holds 7 documents, and an interval needs 8"):
        changes(np.ones(7), np.ones((1, 7)), np.ones(7))
    with pytest.raises(DataError, match="positronic health"):
        changes(np.ones(8), np.full((1, 8), np.nan), np.ones(8))


def test_an_organ_that_was_trained_and_one_that_stayed_closed_are_told_apart():
    """The engram learns; the gates of phase attention never move from 0."""
    model, _ = trained(0, only=lambda name: "injections.0.gates" not in name)
    documents = [Document(text, "here") for text in sentences(24, seed=99)]
    names = ["engram", "phase_attention"]
    whole, versions = compare(model, BYTES, documents, {name: ablate(model, [name]) for name in names})
    nats, n_bytes = np.array([s.nats for s in whole]), np.array([s.bytes for s in whole])
    without = np.array([[s.nats for s in versions[name].scores] for name in names])
    engram, closed = changes(nats, without, n_bytes)
    assert closed == (0.0, 0.0, 0.0)
    assert versions["phase_attention"].largest_change == 0.0
    assert engram.low > 0.0
    assert verdict(closed) == "idle"
    assert verdict(engram) in ("carries", "helps"), engram
